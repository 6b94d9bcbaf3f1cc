//! Layers that mean harm, or are broken: each is refused with a reason, or becomes exactly the tree that is written here; nothing outside changes.

mod archive;
mod corpus;
mod mutation;
mod records;
mod streams;

use rootfs::{Limits, unpack_layer};
use std::{
    fmt::Write,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What becomes of a layer.
pub enum Outcome {
    /// An error with this text.
    Refused(&'static str),
    /// A line for every path, as [`tree`] writes it.
    Tree(&'static [&'static str]),
}

pub struct Row {
    pub name: &'static str,
    pub layer: Vec<u8>,
    pub outcome: Outcome,
    pub limits: Limits,
}

impl Row {
    pub fn new(name: &'static str, layer: Vec<u8>, outcome: Outcome) -> Self {
        Self { name, layer, outcome, limits: Limits::default() }
    }
}

/// Every path below `dir` in order: kind, path, and what is not usual about it.
///
/// A file's content is quoted (or its length given), a symlink's target follows `->`, a device's number is `major:minor`.
pub fn tree(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = dir.join(&path);
        let meta = fs::symlink_metadata(&full).expect("listed");
        let kind = meta.file_type();
        let name = path.as_os_str().as_encoded_bytes().escape_ascii().to_string();
        let name = if name.len() > 100 { format!("{}...{} bytes", &name[..3], name.len()) } else { name };
        let mut line = if kind.is_dir() {
            let list = fs::read_dir(&full).expect("a directory");
            waiting.extend(list.flatten().map(|entry| path.join(entry.file_name())));
            format!("d {name}")
        } else if kind.is_symlink() {
            format!("l {name} -> {}", fs::read_link(&full).expect("a link").display())
        } else if kind.is_file() {
            match meta.len() {
                length @ 41.. => format!("f {name} {length} bytes"),
                _ => format!("f {name} \"{}\"", fs::read(&full).expect("readable").escape_ascii()),
            }
        } else {
            let letter = [(kind.is_char_device(), 'c'), (kind.is_block_device(), 'b'), (true, 'p')];
            let letter = letter.iter().find(|(is, _)| *is).expect("the last one").1;
            format!("{letter} {name} {}:{}", meta.rdev() >> 8, meta.rdev() & 255)
        };
        if !kind.is_dir() && meta.nlink() > 1 {
            write!(line, " links={}", meta.nlink()).expect("memory");
        }
        if meta.mode() & 0o7000 != 0 {
            write!(line, " mode={:o}", meta.mode() & 0o7777).expect("memory");
        }
        if xattr::get(&full, "trusted.overlay.opaque").is_ok_and(|value| value.is_some()) {
            line.push_str(" opaque");
        }
        if !path.as_os_str().is_empty() {
            lines.push(line);
        }
    }
    lines.sort();
    lines
}

/// All that is below `dir`, with owners and times.
pub fn everything(dir: &Path) -> Vec<String> {
    let mut lines = tree(dir);
    for path in [dir.to_owned(), dir.join("victim"), dir.join("inner/victim")] {
        let meta = fs::symlink_metadata(&path).expect("still there");
        let numbers =
            (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec());
        lines.push(format!(
            "{} {numbers:?} {:?}",
            path.display(),
            xattr::list(&path).expect("list").collect::<Vec<_>>()
        ));
    }
    lines
}

/// A directory for layers, and beside it `outside`, which nobody may change.
pub struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    pub fn make() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir_all(dir.path().join("outside/inner")).expect("made");
        for victim in ["victim", "inner/victim"] {
            fs::write(dir.path().join("outside").join(victim), "safe").expect("written");
        }
        Self { dir }
    }

    pub fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Unpacks into an empty directory and answers with what became of it; panics when anything outside changed.
    pub fn unpack(&self, layer: &[u8], limits: Limits) -> (PathBuf, Result<(), String>) {
        let target = self.dir.path().join("layer");
        if target.exists() {
            fs::remove_dir_all(&target).expect("ours");
        }
        fs::create_dir(&target).expect("made");
        let before = everything(&self.outside());
        let done = unpack_layer(layer, &target, limits);
        assert_eq!(everything(&self.outside()), before, "something outside changed");
        assert_eq!(
            fs::read_dir(self.dir.path()).expect("list").count(),
            2,
            "something lies beside the layer"
        );
        let chain = |err: rootfs::ImageError| {
            let source = std::error::Error::source(&err).map(|source| format!(": {source}"));
            format!("{err}{}", source.unwrap_or_default())
        };
        (target, done.map(drop).map_err(chain))
    }
}

#[test]
fn hostile_layers_are_refused_or_stay_inside() {
    let ground = Ground::make();
    let outside = ground.outside();
    let rows = corpus::rows(outside.to_str().expect("UTF-8")).into_iter().chain(streams::rows());
    let (mut wrong, mut count) = (String::new(), 0);
    for row in rows {
        count += 1;
        let (target, done) = ground.unpack(&row.layer, row.limits);
        let problem = match (&row.outcome, &done) {
            (Outcome::Refused(text), Err(err)) if err.contains(text) => continue,
            (Outcome::Tree(expected), Ok(())) => {
                let tree = tree(&target);
                let tree: Vec<String> = tree
                    .iter()
                    .map(|line| line.replace(outside.to_str().expect("UTF-8"), "OUTSIDE"))
                    .collect();
                if tree == *expected {
                    continue;
                }
                format!("becomes {tree:#?}, expected {expected:#?}")
            }
            (Outcome::Refused(text), done) => {
                format!("{done:?} {:?}, expected an error with {text:?}", tree(&target))
            }
            (Outcome::Tree(_), Err(err)) => format!("refused: {err}"),
        };
        writeln!(wrong, "{}: {problem}", row.name).expect("memory");
    }
    assert!(wrong.is_empty(), "of {count} layers:\n{wrong}");
}
