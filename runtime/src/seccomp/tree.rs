//! A seccomp filter as a decision tree: the call's number is found by halving, not by asking for one after the other.
//!
//! A container's profile names some 350 calls. As a chain that is two comparisons for each, run at every system call, and once for every number
//! when the kernel prepares its cache; as a tree of ranges it is nine. Classic BPF jumps forward only, so the program is written from its end.

use runtime_sys::seccomp::Instruction;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const GOTO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How an argument is compared, as unsigned 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Greater(u64),
    NotLess(u64),
    Less(u64),
    NotGreater(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// One condition on an argument, 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub test: Test,
}

/// What happens at a call: the first rule whose conditions all hold, else `otherwise`. Values are `SECCOMP_RET_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub rules: Vec<(Vec<Condition>, u32)>,
    pub otherwise: u32,
}

/// The program. `ranges`: (first number, verdict up to the next range), ascending, from 0. Calls of another architecture get `foreign`.
pub fn program(architecture: u32, foreign: u32, ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let mut writer = Writer::default();
    let tree = writer.node(ranges);
    writer.instruction(LOAD, 0, 0, NUMBER);
    debug_assert_eq!(writer.last() - 1, tree, "the tree follows the number");
    let native = writer.last();
    let foreign = writer.answer(foreign);
    writer.jump(EQUAL, architecture, native, foreign);
    writer.instruction(LOAD, 0, 0, ARCHITECTURE);
    writer.code.reverse();
    writer.code
}

/// Writes from the end; a place is the count of instructions from there to the program's end.
#[derive(Default)]
struct Writer {
    code: Vec<Instruction>,
}

impl Writer {
    fn last(&self) -> usize {
        self.code.len() - 1
    }

    fn instruction(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.code.push(Instruction { code, jt, jf, k });
        self.last()
    }

    fn node(&mut self, ranges: &[(u32, Verdict)]) -> usize {
        match ranges {
            [] => unreachable!("there is a range from 0"),
            [(_, verdict)] => self.verdict(verdict),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let right = self.node(high);
                let left = self.node(low);
                self.jump(NOT_LESS, high[0].0, right, left)
            }
        }
    }

    fn verdict(&mut self, verdict: &Verdict) -> usize {
        let mut next = self.answer(verdict.otherwise);
        for (conditions, value) in verdict.rules.iter().rev() {
            let mut holds = self.answer(*value);
            for condition in conditions.iter().rev() {
                holds = self.condition(*condition, holds, next);
            }
            next = holds;
        }
        next
    }

    /// An instruction that returns `value`; a later one is used again where a jump reaches it.
    fn answer(&mut self, value: u32) -> usize {
        let near = self.code.len().saturating_sub(usize::from(u8::MAX) / 2);
        let known = self.code[near..].iter().rposition(|known| known.code == RETURN && known.k == value);
        match known {
            Some(index) => near + index,
            None => self.instruction(RETURN, 0, 0, value),
        }
    }

    /// Compares the accumulator with `k`.
    fn jump(&mut self, code: u16, k: u32, mut holds: usize, mut fails: usize) -> usize {
        // A far place is reached over a jump that may go any way; the first may push the second out of reach.
        let far = |writer: &Self, place: usize| writer.code.len() - place > usize::from(u8::MAX) - 2;
        if far(self, holds) {
            holds = self.goto(holds);
        }
        if far(self, fails) {
            fails = self.goto(fails);
        }
        let here = self.code.len();
        self.instruction(code, (here - holds - 1) as u8, (here - fails - 1) as u8, k)
    }

    fn goto(&mut self, place: usize) -> usize {
        let distance = self.code.len() - place - 1;
        self.instruction(GOTO, 0, 0, distance as u32)
    }

    /// Tests the two halves of an argument, high one first.
    fn condition(&mut self, condition: Condition, holds: usize, fails: usize) -> usize {
        let low_at = ARGUMENTS + 8 * u32::from(condition.argument);
        let high_at = low_at + 4;
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        match condition.test {
            Test::Equal(value) => self.masked(u64::MAX, value, (high_at, low_at), (holds, fails)),
            Test::NotEqual(value) => self.masked(u64::MAX, value, (high_at, low_at), (fails, holds)),
            Test::MaskedEqual { mask, value } => self.masked(mask, value, (high_at, low_at), (holds, fails)),
            Test::Greater(value) => self.ordered(GREATER, halves(value), (high_at, low_at), (holds, fails)),
            Test::NotLess(value) => self.ordered(NOT_LESS, halves(value), (high_at, low_at), (holds, fails)),
            Test::Less(value) => self.ordered(NOT_LESS, halves(value), (high_at, low_at), (fails, holds)),
            Test::NotGreater(value) => {
                self.ordered(GREATER, halves(value), (high_at, low_at), (fails, holds))
            }
        }
    }

    fn masked(
        &mut self,
        mask: u64,
        value: u64,
        (high_at, low_at): (u32, u32),
        (same, other): (usize, usize),
    ) -> usize {
        let mut same = same;
        for (at, mask, value) in
            [(low_at, mask as u32, value as u32), (high_at, (mask >> 32) as u32, (value >> 32) as u32)]
        {
            self.jump(EQUAL, value, same, other);
            if mask != u32::MAX {
                self.instruction(AND, 0, 0, mask);
            }
            same = self.instruction(LOAD, 0, 0, at);
        }
        same
    }

    fn ordered(
        &mut self,
        low_test: u16,
        (high, low): (u32, u32),
        (high_at, low_at): (u32, u32),
        (holds, fails): (usize, usize),
    ) -> usize {
        self.jump(low_test, low, holds, fails);
        let by_low = self.instruction(LOAD, 0, 0, low_at);
        let same = self.jump(EQUAL, high, by_low, fails);
        self.jump(GREATER, high, holds, same);
        self.instruction(LOAD, 0, 0, high_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NATIVE: u32 = 0xc000_003e;
    const KILL: u32 = 0x8000_0000;

    /// Runs the program as the kernel does.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            NUMBER => number,
            ARCHITECTURE => architecture,
            _ => {
                let argument = arguments[(at - ARGUMENTS) as usize / 8];
                if (at - ARGUMENTS) % 8 == 4 { (argument >> 32) as u32 } else { argument as u32 }
            }
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match code {
                RETURN => return k,
                LOAD => {
                    accumulator = word(k);
                    continue;
                }
                AND => {
                    accumulator &= k;
                    continue;
                }
                GOTO => {
                    at += k as usize;
                    continue;
                }
                EQUAL => accumulator == k,
                GREATER => accumulator > k,
                NOT_LESS => accumulator >= k,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn expected(ranges: &[(u32, Verdict)], number: u32, arguments: [u64; 6]) -> u32 {
        let verdict = &ranges.iter().rev().find(|(first, _)| *first <= number).expect("from 0").1;
        let holds = |condition: &Condition| {
            let argument = arguments[usize::from(condition.argument)];
            match condition.test {
                Test::Equal(value) => argument == value,
                Test::NotEqual(value) => argument != value,
                Test::Greater(value) => argument > value,
                Test::NotLess(value) => argument >= value,
                Test::Less(value) => argument < value,
                Test::NotGreater(value) => argument <= value,
                Test::MaskedEqual { mask, value } => argument & mask == value,
            }
        };
        let first = verdict.rules.iter().find(|(conditions, _)| conditions.iter().all(holds));
        first.map_or(verdict.otherwise, |(_, value)| *value)
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, Just(u64::MAX), Just(1 << 32), Just((1 << 32) + 1), any::<u64>()]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let test = prop_oneof![
            value().prop_map(Test::Equal),
            value().prop_map(Test::NotEqual),
            value().prop_map(Test::Greater),
            value().prop_map(Test::NotLess),
            value().prop_map(Test::Less),
            value().prop_map(Test::NotGreater),
            (value(), value()).prop_map(|(mask, value)| Test::MaskedEqual { mask, value: value & mask }),
        ];
        (0u8..6, test).prop_map(|(argument, test)| Condition { argument, test })
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let rule = (proptest::collection::vec(condition(), 1..4), 0u32..9);
        (proptest::collection::vec(rule, 0..4), 0u32..9)
            .prop_map(|(rules, otherwise)| Verdict { rules, otherwise })
    }

    proptest! {
        #[test]
        fn the_tree_decides_as_its_rules_say(
            verdicts in proptest::collection::btree_map(1u32..600, verdict(), 0..150), first in verdict(),
            calls in proptest::collection::vec((0u32..700, proptest::array::uniform6(value())), 20),
        ) {
            let ranges: Vec<(u32, Verdict)> = std::iter::once((0, first)).chain(verdicts).collect();
            let program = program(NATIVE, KILL, &ranges);
            for (number, arguments) in calls {
                prop_assert_eq!(run(&program, NATIVE, number, arguments), expected(&ranges, number, arguments));
                prop_assert_eq!(run(&program, NATIVE ^ 1, number, arguments), KILL);
            }
        }
    }
}
