-- Sieve, n queens, string building, closures, coroutines and a sort.
local function sieve(n)
  local composite, count = {}, 0
  for i = 2, n do
    if not composite[i] then
      count = count + 1
      for j = i * i, n, i do composite[j] = true end
    end
  end
  return count
end

local function queens(n)
  local solutions, columns, up, down = 0, {}, {}, {}
  local function place(row)
    if row > n then solutions = solutions + 1 return end
    for c = 1, n do
      if not (columns[c] or up[row + c] or down[row - c]) then
        columns[c], up[row + c], down[row - c] = true, true, true
        place(row + 1)
        columns[c], up[row + c], down[row - c] = nil, nil, nil
      end
    end
  end
  place(1)
  return solutions
end

local function words()
  return coroutine.wrap(function()
    for w in ("the quick brown fox jumps over the lazy dog"):gmatch("%a+") do coroutine.yield(w) end
  end)
end

print("primes below 20000", sieve(20000))
print("queens of 6", queens(6))
local seen = {}
for w in words() do seen[#seen + 1] = w:upper() end
table.sort(seen)
print(table.concat(seen, " "))
local parts = {}
for i = 1, 2000 do parts[i] = string.format("%05x", i * i % 1048576) end
print(#table.concat(parts), table.concat(parts):sub(-20))
