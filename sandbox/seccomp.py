"""The system calls a container may make: an allow-list, in the form Docker takes.

Far smaller than Docker's own list. What stands out as missing: io_uring, ptrace and process_vm_*,
bpf, perf_event_open, userfaultfd, keyrings, every namespace and mount call, System V IPC and POSIX
message queues, sockets other than AF_UNIX and AF_INET(6) (of which a container without a network
has the loopback), modules, kexec, quotas, clocks, handles, personality, seccomp itself.
"""

from __future__ import annotations

from typing import Any

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents
getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown
lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod
mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile
setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask
unlink unlinkat utime utimensat utimes write writev
"""
_MEMORY = """
brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock
munlockall munmap pkey_alloc pkey_free pkey_mprotect
"""
_PROCESSES = """
arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait
futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
gettid getuid ioprio_get kill pidfd_open pidfd_send_signal prctl prlimit64 rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_yield set_robust_list
set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setregid
setresgid setresuid setreuid setrlimit setsid setuid sigaltstack signalfd signalfd4 sysinfo tgkill
times tkill uname vfork wait4 waitid waitpid
"""
_TIME = """
alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause
restart_syscall setitimer time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
_EVENTS = """
_newselect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
io_cancel io_destroy io_getevents io_setup io_submit poll ppoll pselect6 select
"""
_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmsg
send sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""
_SOCKET_FAMILIES = (1, 2, 10)
_NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_EPERM, _ENOSYS = 1, 38


def profile() -> dict[str, Any]:
    allowed = " ".join([_FILES, _MEMORY, _PROCESSES, _TIME, _EVENTS, _SOCKETS]).split()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            *(_allow_if("socket", 0, "SCMP_CMP_EQ", family) for family in _SOCKET_FAMILIES),
            _allow_if("clone", 0, "SCMP_CMP_MASKED_EQ", _NAMESPACE_FLAGS, 0),
            # Its flags are behind a pointer; the C library then falls back to clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _allow_if(
    name: str, index: int, comparison: str, value: int, value_two: int = 0
) -> dict[str, Any]:
    condition = {"index": index, "value": value, "valueTwo": value_two, "op": comparison}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
