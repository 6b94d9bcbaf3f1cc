//! What the compiler does not check about this code base: who may depend on whom, where `unsafe` is, how long things are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Tables are long because what they list is.
const LONG_FILES: [&str; 0] = [];
/// Functions that are tables: one row, one line.
const LONG_FUNCTIONS: [&str; 5] = ["features", "link_rows", "whiteout_rows", "pax_rows", "sparse_rows"];

/// Which of our crates a crate may depend on; what is not listed is forbidden.
const EDGES: [(&str, &[&str]); 15] = [
    ("codec", &[]),
    ("runtime-sys", &[]),
    ("runtime-spec", &[]),
    ("api", &[]),
    ("hello", &[]),
    ("agent-protocol", &["codec"]),
    ("netd-protocol", &["codec"]),
    ("runtime-protocol", &["codec", "runtime-spec"]),
    ("runtime", &["codec", "runtime-protocol", "runtime-spec", "runtime-sys"]),
    ("rootfs", &["runtime-sys"]),
    ("netd", &["codec", "netd-protocol", "runtime-sys"]),
    (
        "agent",
        &[
            "agent-protocol",
            "codec",
            "netd-protocol",
            "rootfs",
            "runtime-protocol",
            "runtime-spec",
            "runtime-sys",
        ],
    ),
    ("scheduler", &["agent-protocol", "api", "codec"]),
    ("ctl", &["agent-protocol", "api", "codec"]),
    ("tests", &["agent-protocol", "api", "codec", "runtime-spec"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

/// Our Rust files: path relative to the root, and content.
fn sources() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "*.rs"])
        .current_dir(root())
        .output();
    let listed = String::from_utf8(listed.expect("git runs").stdout).expect("paths are UTF-8");
    let read = |path: &str| fs::read_to_string(root().join(path)).ok().map(|text| (path.to_owned(), text));
    let sources: Vec<_> = listed.lines().filter_map(read).collect();
    assert!(sources.len() > 20, "git lists only {} files: is this a checkout?", sources.len());
    sources
}

/// Lines of the file before its `mod tests`.
fn without_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

fn report(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn crates_depend_only_on_what_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let Some(edges) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            if allowed.contains_key(to) && !edges.contains(&to) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    report("edges between crates that the table does not allow", wrong);
}

#[test]
fn unsafe_is_only_in_runtime_sys() {
    let mut wrong = Vec::new();
    for (path, text) in sources()
        .iter()
        .filter(|(path, _)| !path.starts_with("runtime/sys/") && !path.starts_with("tests/tidy/"))
    {
        let found = text.lines().enumerate().filter(|(_, line)| {
            let code = line.split("//").next().unwrap_or_default();
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word))
        });
        wrong.extend(found.map(|(index, _)| format!("{path}:{}", index + 1)));
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        let has_library = path.ends_with("main.rs") && root().join(path).with_file_name("lib.rs").exists();
        if is_root && !has_library && !path.starts_with("tests/") && !text.contains("#![forbid(unsafe_code)]")
        {
            wrong.push(format!("{path}: no #![forbid(unsafe_code)]"));
        }
    }
    report("`unsafe` outside runtime/sys", wrong);
}

#[test]
fn files_are_short() {
    let long = sources()
        .iter()
        .map(|(path, text)| (path.clone(), without_tests(text).len()))
        .filter(|(path, lines)| *lines > FILE_LINES_MAX && !LONG_FILES.contains(&path.as_str()))
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {FILE_LINES_MAX}: split it by noun"))
        .collect();
    report("files that are too long", long);
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        for (name, start, lines) in functions(&without_tests(&text)) {
            if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&name.as_str()) {
                long.push(format!("{path}:{start} {name}: {lines} lines, at most {FUNCTION_LINES_MAX}"));
            }
        }
    }
    report("functions that are too long", long);
}

/// Name, first line and length of every function: from `fn` to the closing brace of the same indentation.
fn functions(lines: &[&str]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let is_function = code.starts_with("fn ")
            || (code.starts_with("pub") || code.starts_with("async") || code.starts_with("const fn"))
                && code.contains("fn ");
        if !is_function {
            continue;
        }
        let name =
            code.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).unwrap_or_default();
        let close = format!("{indent}}}");
        let end = lines[start..]
            .iter()
            .position(|line| *line == close || line.ends_with(';') && *line == lines[start]);
        found.push((name.to_owned(), start + 1, end.map_or(0, |end| end + 1)));
    }
    found
}

#[test]
fn nothing_is_left_for_later() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK")];
    let mut left = Vec::new();
    for (path, text) in sources() {
        let found = text.lines().enumerate().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        left.extend(found.map(|(index, line)| format!("{path}:{}: {}", index + 1, line.trim())));
    }
    report("notes to self in the code", left);
}

#[test]
fn the_readme_names_every_crate() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let missing = [
        "runtime/",
        "runtime/sys",
        "rootfs/",
        "netd/",
        "agent/",
        "agent/codec",
        "scheduler/",
        "scheduler/api",
        "ctl/",
        "tests/",
    ]
    .iter()
    .filter(|name| !readme.contains(&format!("`{name}")))
    .map(|name| (*name).to_owned())
    .collect();
    report("crates that the code map of the README lacks", missing);
}
