import sys,pathlib,time,os
sys.path.insert(0,'/work/main/test/machine'); sys.dont_write_bytecode=True
from host.kernel import Kernel
from host.image import *
from host.config import Config
from host.bochs import Bochs
from host.channel import Channel
from host.verdict import KernelLog
k=Kernel(sys.argv[1]); d=pathlib.Path('/tmp/r1'); shutil.rmtree(d,ignore_errors=True); d.mkdir()
c=Config(cpus=int(sys.argv[2]))
t=time.time()
mods=kvm_modules(k)
f=base_files(k,mods)
plan=plan_line('hostname','dune')+plan_line('loglevel',7)
for n,_ in mods: plan+=plan_line('module',module_path(n),'')
plan+=plan_line('ready')
p=f.add_program('uname')
plan+=plan_line('job',0,10,'/root',p,'-a')
plan+=plan_line('job',1,10,'/root','/machine/tools/sh','-c',sys.argv[3])
for e in sys.argv[4:]: f.add(e)
f.add_bytes('/machine/plan',plan.encode()); finish_files(f)
write_boot_cd(d,k,f,c.command_line()+' '+os.environ.get('APP',''))
print('prep',time.time()-t); t=time.time()
ch=Channel(); log=KernelLog()
with Bochs(d,c.bochsrc(d,None,None)) as b:
    print('start',time.time()-t)
    while True:
        data=b.read_output(0.05)
        for l in log.feed(b.read_serial()): print('%.1f'%(time.time()-t),'K',l)
        if data is None: break
        for fr in ch.feed(data): print('%.1f'%(time.time()-t),fr)
        if time.time()-t>60:
            print(b.interrupt(1)); break
    for l in log.feed(b.read_serial()): print('%.1f'%(time.time()-t),'K',l)
print('chatter',ch.chatter[-600:]); print(log.splats, log.ended)
print(b.log_tail())
