//! What `process` of config.json, or a process.json of `exec`, may say.

use crate::{
    SpecError,
    oci::{IOPriorityClass, Process},
    validate::{field, require},
};
use std::ops::RangeInclusive;

/// Levels of an I/O priority class; ioprio_set(2).
const IO_PRIORITIES: RangeInclusive<i64> = 0..=7;

/// Checks what the types do not, naming each field as config.json has it.
pub fn validate_process(process: &Process) -> Result<(), SpecError> {
    require(process.args().as_ref().is_some_and(|args| !args.is_empty()), "process.args", "is empty")?;
    require(process.cwd().is_absolute(), "process.cwd", "is not absolute")?;
    let user = process.user();
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        // setresuid(2) takes -1 for "no change": the program would stay root.
        let why = format!("{id}: allowed are 0 to {}", u32::MAX - 1);
        require(id != u32::MAX, &format!("process.user.{name}"), &why)?;
    }
    for (index, variable) in process.env().iter().flatten().enumerate() {
        let named = variable.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        let at = || format!("process.env[{index}]");
        (named && !variable.contains('\0')).then_some(()).ok_or_else(|| field(&at(), "is not NAME=value"))?;
    }
    let mut limited = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let twice = format!("{} is listed twice", limit.typ());
        require(!limited.contains(&limit.typ()), &format!("process.rlimits[{index}]"), &twice)?;
        limited.push(limit.typ());
    }
    if let Some(asked) = process.io_priority() {
        let known =
            asked.class() == IOPriorityClass::IoprioClassIdle || IO_PRIORITIES.contains(&asked.priority());
        let why = format!("{}: allowed are 0 to 7", asked.priority());
        require(known, "process.ioPriority.priority", &why)?;
    }
    let affinity = process.exec_cpu_affinity().as_ref();
    let lists = [
        ("initial", affinity.and_then(|affinity| affinity.initial().as_ref())),
        ("final", affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref())),
    ];
    for (name, list) in lists {
        let Some(list) = list else { continue };
        let why = format!("{list:?}: give CPUs as in 0-3,7");
        require(numbers(list).is_some(), &format!("process.execCPUAffinity.{name}"), &why)?;
    }
    Ok(())
}

/// The numbers of a list of CPUs or nodes as in `0-3,7`; `None` for any other text.
pub fn numbers(list: &str) -> Option<Vec<usize>> {
    /// `CPU_SETSIZE`.
    const NUMBER_MAX: usize = 1023;
    let mut numbers = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last > NUMBER_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_and_ranges() {
        assert_eq!(numbers("0-2,7"), Some(vec![0, 1, 2, 7]));
        for text in ["", "a", "3-1", "1,", "-1", "0-4000000000"] {
            assert_eq!(numbers(text), None, "{text:?}");
        }
    }
}
