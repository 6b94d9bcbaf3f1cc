//! Random names: uids, and the ends of generated names.

use std::{fs::File, io::Read};

/// Letters of generated names: no vowels and no digits that look like them, as Kubernetes has it.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Longest generated name before its suffix.
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LENGTH;

/// A random (version 4) UUID.
pub fn uid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// `generateName` with its random end.
pub fn generated_name(base: &str) -> String {
    let cut = base.char_indices().map(|(at, _)| at).find(|&at| at >= GENERATE_NAME_MAX).unwrap_or(base.len());
    let suffix = random::<SUFFIX_LENGTH>().map(|byte| SUFFIX_LETTERS[usize::from(byte) % 27] as char);
    base[..cut].chars().chain(suffix).collect()
}

/// Bytes nobody can guess.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.expect("/dev/urandom is always readable");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let uid = uid();
        assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'4'));
        assert_ne!(uid, super::uid());
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name("web-").len(), 9);
        let long = generated_name(&"x".repeat(100));
        assert_eq!(long.len(), 63);
    }
}
