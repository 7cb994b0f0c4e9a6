-- A small shop: orders, an index, joins, window functions, a trigger and JSON.
create table customer(id integer primary key, name text, city text);
create table orders(id integer primary key, customer integer, day integer, cents integer);
create table audit(what text, n integer);
create trigger count_orders after insert on orders begin
  insert into audit values ('order', new.id);
end;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 100)
  insert into customer select i, 'customer ' || i, 'city ' || (i * 7 % 10) from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
  insert into orders select i, 1 + i * 31 % 100, i / 10, (i * 7919) % 50000 from n;
create index by_customer on orders(customer, day);
select city, count(*), sum(cents), round(avg(cents), 3)
  from orders join customer on customer.id = orders.customer group by city order by city;
select id, total from (select customer as id, sum(cents) as total, rank() over
  (order by sum(cents) desc) as r from orders group by customer) where r <= 5;
update orders set cents = cents + 1 where customer % 2 = 0;
delete from orders where day % 3 = 0;
select count(*), sum(cents), (select count(*) from audit) from orders;
select json_group_array(name) from (select name from customer where id < 6);
pragma integrity_check;
