//! Who a container runs as: names of the image looked up in its own `/etc/passwd` and `/etc/group`.

use crate::{Image, ImageError, error::malformed, merged};
use std::{io::Read, path::Path};

/// An /etc/passwd that is longer is not read to its end.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Ids of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Groups that list the user.
    pub groups: Vec<u32>,
    /// From passwd; `/` where it has none.
    pub home: String,
}

impl Image {
    /// Looks up `user` (`name|uid[:group|gid]`, empty is root) in the image. Errors: a name that the image does not know. Blocks.
    pub fn look_up(&self, user: &str) -> Result<User, ImageError> {
        look_up(user, &self.read("etc/passwd")?, &self.read("etc/group")?)
    }

    /// The file as the container will see it; empty where there is none.
    fn read(&self, path: &str) -> Result<String, ImageError> {
        let mut bytes = Vec::new();
        if let Some(file) = merged::open(&self.lower, Path::new(path)).map_err(|err| malformed(path, err))? {
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|err| malformed(path, err))?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn look_up(user: &str, passwd: &str, group: &str) -> Result<User, ImageError> {
    let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let fields = |line: &str| -> Vec<String> { line.split(':').map(str::to_owned).collect() };
    let name = if name.is_empty() { "0" } else { name };
    // A number is a number even when a user is called so (CVE-2026-30892).
    let number = name.parse::<u32>().ok();
    let line = passwd.lines().map(fields).find(|line| match number {
        Some(uid) => line.get(2).is_some_and(|id| id.parse() == Ok(uid)),
        None => line[0] == name,
    });
    let from_line = |index: usize| line.as_ref().and_then(|line| line.get(index)?.parse::<u32>().ok());
    let unknown = |what: &str, name: &str| malformed("user", format!("the image has no {what} {name:?}"));
    let uid = number.or_else(|| from_line(2)).ok_or_else(|| unknown("user", name))?;
    let login = line.as_ref().map(|line| line[0].clone());
    let gid = match group_name.filter(|group| !group.is_empty()) {
        None => from_line(3).unwrap_or(0),
        Some(wanted) => match wanted.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let found = group.lines().map(fields).find(|line| line[0] == wanted);
                found.and_then(|line| line.get(2)?.parse().ok()).ok_or_else(|| unknown("group", wanted))?
            }
        },
    };
    let lists = |line: &Vec<String>| {
        let members = line.get(3).map(String::as_str).unwrap_or_default();
        login.as_deref().is_some_and(|login| members.split(',').any(|member| member == login))
    };
    let groups = match group_name {
        Some(_) => Vec::new(),
        None => {
            group.lines().map(fields).filter(lists).filter_map(|line| line.get(2)?.parse().ok()).collect()
        }
    };
    let home = line.and_then(|line| line.get(5).cloned()).filter(|home| home.starts_with('/'));
    Ok(User { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n1000:x:7:7::/:/\n";
        let group = "root:x:0:\nlog:x:50:web,other\nweb:x:34:\n";
        let cases = [
            ("", (0, 0, vec![])),
            ("web", (33, 34, vec![50])),
            ("33", (33, 34, vec![50])),
            ("web:log", (33, 50, vec![])),
            ("1000", (1000, 0, vec![])),
            ("5:6", (5, 6, vec![])),
        ];
        for (user, (uid, gid, groups)) in cases {
            let found = look_up(user, passwd, group).expect(user);
            assert_eq!((found.uid, found.gid, found.groups), (uid, gid, groups), "{user:?}");
        }
        assert!(look_up("nobody", passwd, group).is_err());
        assert!(look_up("web:nogroup", passwd, group).is_err());
    }
}
