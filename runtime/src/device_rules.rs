//! `linux.resources.devices` as a program: which devices a container may open and make.
//!
//! Without rules nothing is allowed but the default devices, and making nodes of any kind, which opens nothing. The last rule that fits decides, and
//! the default devices come last, as under runc.

use crate::cgroup::{Cgroup, CgroupError};
use runtime_spec::oci::{LinuxDeviceCgroup, LinuxDeviceType};
use runtime_sys::bpf::{Instruction, attach_device_program};
use std::os::fd::AsFd;

/// `BPF_DEVCG_*` of linux/bpf.h.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERYTHING: i32 = MKNOD | READ | WRITE;

/// One rule; `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// The minors of major 1 that every container may use, as bits: null, zero, full, random, urandom.
const MEMORY_MINORS: i32 = 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9;
/// Major 5: tty, console, ptmx are minors 0 to 2.
const TERMINALS: i32 = 5;
const PTS: i32 = 136;

/// Puts the rules in force for the group. Failing that is an error also where config.json has no rules: an image can bring the node of a disk.
pub fn apply(cgroup: &Cgroup, listed: Option<&[LinuxDeviceCgroup]>) -> Result<(), CgroupError> {
    let rules = rules(listed.unwrap_or_default())?;
    attach_device_program(cgroup.open()?.as_fd(), &program(&rules)).map_err(|source| CgroupError::Io {
        what: "apply linux.resources.devices to",
        path: cgroup.path().to_path_buf(),
        source,
    })
}

fn rules(listed: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, CgroupError> {
    listed.iter().map(rule).collect()
}

fn rule(listed: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let refused = |value: String| CgroupError::Unsupported { field: "devices", value };
    let kind = match listed.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        Some(LinuxDeviceType::P) => return Err(refused("type p".to_owned())),
    };
    let access = listed.access().as_deref().unwrap_or("rwm");
    let bit = |letter: char| match letter {
        'r' => Ok(READ),
        'w' => Ok(WRITE),
        'm' => Ok(MKNOD),
        _ => Err(refused(format!("access {access}"))),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number).map(Some).map_err(|_| refused(format!("number {number}"))),
    };
    Ok(Rule {
        allow: listed.allow(),
        kind,
        major: number(listed.major())?,
        minor: number(listed.minor())?,
        access: access.chars().map(bit).try_fold(0, |all, bit| Ok(all | bit?))?,
    })
}

/// Registers: r1 the context, then scratch; r2 kind, r3 access, r4 major, r5 minor; r0 the answer.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program =
        vec![load(2, 0), copy(3, 2), and(2, 0xffff), shift_right(3, 16), load(4, 4), load(5, 8)];
    program.extend(defaults());
    for rule in rules.iter().rev() {
        let mut block = Vec::new();
        let numbers = [(2, rule.kind), (4, rule.major), (5, rule.minor)];
        let tests: Vec<(u8, i32)> =
            numbers.iter().filter_map(|&(register, value)| Some((register, value?))).collect();
        // An access may ask for several things at once: all must be allowed, one denied is enough.
        let access: &[Instruction] = match (rule.access, rule.allow) {
            (EVERYTHING, _) => &[],
            (access, true) => &[copy(1, 3), and(1, access), jump_unless_same(1, 3)],
            (access, false) => &[copy(1, 3), and(1, access), jump(EQUAL, 1, 0, NEXT)],
        };
        block.extend(tests.iter().map(|&(register, value)| jump(NOT_EQUAL, register, value, NEXT)));
        block.extend(access);
        block.extend([set(0, i32::from(rule.allow)), EXIT]);
        // Every jump leads behind the block.
        let len = block.len();
        for (index, instruction) in
            block.iter_mut().enumerate().filter(|(_, instruction)| instruction.offset == NEXT)
        {
            instruction.offset = (len - index - 1) as i16;
        }
        program.extend(block);
        // The verifier takes no instruction that is never reached, and nothing gets past a rule for everything.
        if tests.is_empty() && access.is_empty() {
            return program;
        }
    }
    program.extend([set(0, 0), EXIT]);
    program
}

/// Allows making any node, and everything on the default devices; falls through for the rest.
fn defaults() -> [Instruction; 16] {
    [
        jump(NOT_EQUAL, 3, MKNOD, 2),
        set(0, 1),
        EXIT,
        jump(NOT_EQUAL, 2, CHARACTER, 12),
        jump(EQUAL, 4, PTS, 9),
        jump(EQUAL, 4, TERMINALS, 7),
        jump(NOT_EQUAL, 4, 1, 9),
        jump(GREATER, 5, 9, 8),
        set(1, MEMORY_MINORS),
        instruction(0x7f, 1 | 5 << 4, 0, 0),
        and(1, 1),
        jump(EQUAL, 1, 0, 4),
        instruction(0x05, 0, 1, 0),
        jump(GREATER, 5, 2, 2),
        set(0, 1),
        EXIT,
    ]
}

const EQUAL: u8 = 0x15;
const GREATER: u8 = 0x25;
const NOT_EQUAL: u8 = 0x55;

/// Stands for "behind this block" until the block's length is known.
const NEXT: i16 = i16::MAX;
const EXIT: Instruction = instruction(0x95, 0, 0, 0);

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

fn load(to: u8, offset: i16) -> Instruction {
    instruction(0x61, to | 1 << 4, offset, 0)
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to | from << 4, 0, 0)
}

fn and(register: u8, mask: i32) -> Instruction {
    instruction(0x57, register, 0, mask)
}

fn shift_right(register: u8, bits: i32) -> Instruction {
    instruction(0x77, register, 0, bits)
}

fn set(register: u8, value: i32) -> Instruction {
    instruction(0xb7, register, 0, value)
}

fn jump(test: u8, register: u8, value: i32, offset: i16) -> Instruction {
    instruction(test, register, offset, value)
}

fn jump_unless_same(a: u8, b: u8) -> Instruction {
    instruction(0x5d, a | b << 4, NEXT, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn decide(program: &[Instruction], context: [u32; 3]) -> bool {
        let (mut registers, mut at) = ([0u64; 11], 0);
        for _ in 0..10_000 {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            let taken = match code {
                0x61 => {
                    registers[to] = u64::from(context[offset as usize / 4]);
                    false
                }
                0xbf => {
                    registers[to] = registers[from];
                    false
                }
                0x57 => {
                    registers[to] &= immediate as u64;
                    false
                }
                0x77 => {
                    registers[to] >>= immediate;
                    false
                }
                0xb7 => {
                    registers[to] = immediate as u64;
                    false
                }
                0x7f => {
                    registers[to] >>= registers[from];
                    false
                }
                0x05 => true,
                0x15 => registers[to] == immediate as u64,
                0x25 => registers[to] > immediate as u64,
                0x55 => registers[to] != immediate as u64,
                0x5d => registers[to] != registers[from],
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            };
            if taken {
                at += offset as usize;
            }
        }
        panic!("does not end");
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let json = |text| serde_json::from_str::<Vec<LinuxDeviceCgroup>>(text).expect("valid");
        let deny = r#"[{"allow": false, "access": "rwm"}]"#;
        let fuse =
            r#"[{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]"#;
        let all = r#"[{"allow": true, "access": "rwm"}]"#;
        let no_writing = r#"[{"allow": true}, {"allow": false, "type": "b", "access": "w"}]"#;
        let cases = [
            ("null is always there", deny, (CHARACTER, 1, 3, READ | WRITE), true),
            ("urandom", deny, (CHARACTER, 1, 9, READ), true),
            ("memory", deny, (CHARACTER, 1, 1, READ), false),
            ("the kernel's log", deny, (CHARACTER, 1, 11, READ), false),
            ("far from null", deny, (CHARACTER, 1, 67, READ), false),
            ("ptmx", deny, (CHARACTER, 5, 2, READ | WRITE), true),
            ("beyond ptmx", deny, (CHARACTER, 5, 3, READ), false),
            ("every pts", deny, (CHARACTER, 136, 77, READ), true),
            ("making is not opening", deny, (BLOCK, 8, 0, MKNOD), true),
            ("a disk", deny, (BLOCK, 8, 0, READ), false),
            ("the same numbers as null, of a block device", deny, (BLOCK, 1, 3, READ), false),
            ("no rules are a denial", "[]", (CHARACTER, 10, 229, READ), false),
            ("what is listed", fuse, (CHARACTER, 10, 229, READ | WRITE), true),
            ("beside what is listed", fuse, (CHARACTER, 10, 228, READ), false),
            ("privileged", all, (BLOCK, 8, 0, EVERYTHING), true),
            ("reading only", no_writing, (BLOCK, 8, 0, READ), true),
            ("one denied of two", no_writing, (BLOCK, 8, 0, READ | WRITE), false),
        ];
        for (name, text, (kind, major, minor, access), expected) in cases {
            let program = program(&rules(&json(text)).expect("valid"));
            let context = [(access << 16 | kind) as u32, major, minor];
            assert_eq!(decide(&program, context), expected, "{name}");
        }
        assert!(rules(&json(r#"[{"allow": true, "access": "x"}]"#)).is_err());
    }
}
