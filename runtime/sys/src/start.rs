//! The first instructions of `wherry-runtime`: the program is run again from a read-only mount of its file before libc has set anything up.
//!
//! What it does and why: `runtime::self_protection`, which does the same for other architectures and says what is wrong where this fails. Here it takes
//! half the time, because libc's own start (which asks the processor for its features, an exit to the hypervisor each time) happens once, not twice.
//! proc_pid_exe(5), open_tree(2), mount_setattr(2), execveat(2).
//!
//! The linker is told to begin at `wherry_start` by the runtime's build script; other programs do not contain it.

/// Offset of `f_flags` in the kernel's `struct statfs`; libc's ends its public part with the field before.
#[cfg(target_arch = "x86_64")]
const STATFS_FLAGS: usize = 80;

// SAFETY (of the assembly): at the entry point of a process the stack pointer is at argc, argv, a null, envp, a null and the auxiliary vector (System V
// psABI, 3.4.1); what is below it is free. Strings of argv are followed by those of the environment, the file's name and eight zero bytes, so that eight
// bytes of each can be read. Only registers that the ABI leaves undefined are changed; `rsp` and `rdx` are as they were when `_start` gets them.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.wherry_start, \"ax\", @progbits",
    ".globl wherry_start",
    ".type wherry_start, @function",
    "wherry_start:",
    "mov r13, rsp",
    "mov r14, rdx",
    // Only commands that make processes in containers: run, exec, create, monitor.
    "cmp qword ptr [r13], 2",
    "jb 5f",
    "lea r8, [r13 + 16]",
    "2:",
    "mov rsi, [r8]",
    "test rsi, rsi",
    "jz 5f",
    "add r8, 8",
    "mov rax, [rsi]",
    "cmp eax, 0x006e7572",
    "je 3f",
    "movabs rcx, 0x00726f74696e6f6d",
    "cmp rax, rcx",
    "je 3f",
    "shl rax, 8",
    "movabs rcx, 0x0065746165726300",
    "cmp rax, rcx",
    "je 3f",
    "shl rax, 16",
    "movabs rcx, 0x0063657865000000",
    "cmp rax, rcx",
    "jne 2b",
    "3:",
    // Done already?
    "sub rsp, 128",
    "mov eax, {statfs}",
    "lea rdi, [rip + 6f]",
    "mov rsi, rsp",
    "syscall",
    "test eax, eax",
    "jnz 5f",
    "test byte ptr [rsp + {flags}], {read_only}",
    "jnz 5f",
    "mov eax, {open_tree}",
    "mov edi, {here}",
    "lea rsi, [rip + 6f]",
    "mov edx, {clone}",
    "syscall",
    "test eax, eax",
    "js 5f",
    "mov r15d, eax",
    "mov eax, {mount_setattr}",
    "mov edi, r15d",
    "lea rsi, [rip + 7f]",
    "mov edx, {empty_path}",
    "lea r10, [rip + 8f]",
    "mov r8d, 32",
    "syscall",
    "test eax, eax",
    "jnz 4f",
    "mov eax, {execveat}",
    "mov edi, r15d",
    "lea rsi, [rip + 7f]",
    "lea rdx, [r13 + 8]",
    "mov rcx, [r13]",
    "lea r10, [r13 + rcx * 8 + 16]",
    "mov r8d, {empty_path}",
    "syscall",
    "4:",
    "mov eax, {close}",
    "mov edi, r15d",
    "syscall",
    // It goes on as it is: `self_protection::protect` looks again, and says what is wrong.
    "5:",
    "mov rsp, r13",
    "mov rdx, r14",
    "jmp _start",
    "6: .asciz \"/proc/self/exe\"",
    "7: .byte 0",
    ".balign 8",
    // struct mount_attr: set, clear, propagation, user namespace.
    "8: .quad {read_only_mount}, 0, 0, 0",
    ".size wherry_start, . - wherry_start",
    ".popsection",
    statfs = const libc::SYS_statfs,
    flags = const STATFS_FLAGS,
    read_only = const libc::ST_RDONLY,
    open_tree = const libc::SYS_open_tree,
    here = const libc::AT_FDCWD,
    clone = const libc::OPEN_TREE_CLONE as i32 | libc::O_CLOEXEC,
    mount_setattr = const libc::SYS_mount_setattr,
    empty_path = const libc::AT_EMPTY_PATH,
    read_only_mount = const libc::MOUNT_ATTR_RDONLY,
    execveat = const libc::SYS_execveat,
    close = const libc::SYS_close,
);

#[cfg(target_arch = "x86_64")]
const _: () = assert!(std::mem::offset_of!(libc::statfs, f_frsize) + 8 == STATFS_FLAGS);
