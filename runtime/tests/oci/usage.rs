//! Command lines that cannot be understood: exit codes as runc 1.1.5 has them, what is printed where, and what the log says.

use crate::bundle::{Bundle, shell};
use serde_json::Value;
use std::fs;

/// The words, the exit code of runc, and what the message says.
const REFUSED: [(&[&str], i32, &str); 21] = [
    (&["nosuch"], 3, "unrecognized subcommand 'nosuch'"),
    (&["--nosuch", "list"], 1, "unexpected argument '--nosuch' found"),
    (&["--log-format", "xml", "list"], 1, "invalid value 'xml' for '--log-format"),
    (&["--rootless", "perhaps", "list"], 1, "invalid value 'perhaps' for '--rootless"),
    (&["list", "--nosuch"], 1, "unexpected argument '--nosuch' found"),
    (&["list", "x"], 1, "unexpected argument 'x' found"),
    (
        &["list", "--format", "yaml"],
        1,
        "invalid value 'yaml' for '--format <FORMAT>' [possible values: table, json]",
    ),
    (&["create"], 1, "required arguments were not provided: <ID>"),
    (&["create", "--nosuch", "x"], 1, "unexpected argument '--nosuch' found"),
    (&["create", "x", "y"], 1, "unexpected argument 'y' found"),
    (&["create", "a/b"], 1, "invalid container ID format: \"a/b\": allowed are"),
    (&["run", "--preserve-fds", "y", "x"], 1, "invalid value 'y' for '--preserve-fds"),
    (&["kill", "x", "TERM", "y"], 1, "unexpected argument 'y' found"),
    (&["delete", "--force", "a/b"], 1, "invalid container ID format"),
    (&["update", "--pids-limit", "y", "x"], 1, "invalid value 'y' for '--pids-limit"),
    (&["events", "--interval", "0s", "x"], 1, "give a time above 0, as in 5s"),
    // An exec that was not understood is as any other; a value that it cannot take is as an exec that failed.
    (&["exec"], 1, "required arguments were not provided: <ID>"),
    (&["exec", "--nosuch", "x", "sh"], 1, "unexpected argument '--nosuch' found"),
    (&["exec", "--user", "root", "x", "sh"], 255, "invalid value 'root' for '--user"),
    (&["exec", "--user", "1:x", "x", "sh"], 255, "invalid value '1:x' for '--user"),
    (&["exec", "a/b", "sh"], 255, "invalid container ID format"),
];

/// What was appended to the log since the last look.
fn logged(bundle: &Bundle) -> String {
    let path = bundle.dir.join("log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, "").expect("emptied");
    text
}

#[test]
fn what_is_not_understood_ends_as_under_runc_and_is_logged() {
    let Some(bundle) = shell("true") else { return };
    for (words, code, message) in REFUSED {
        let answer = bundle.runtime(&[&["--log", "log", "--log-format", "json"], words].concat());
        assert_eq!(answer.code, code, "{words:?}: {answer:?}");
        assert_eq!(answer.out, "", "{words:?}");
        assert!(answer.err.starts_with("wherry-runtime: "), "{words:?}: {}", answer.err);
        let text = logged(&bundle);
        if words[0] == "--log-format" {
            assert!(answer.err.contains(message), "{words:?}: {}", answer.err);
            continue;
        }
        let line: Value =
            serde_json::from_str(&text).unwrap_or_else(|err| panic!("{words:?}: {text:?}: {err}"));
        assert_eq!(line["level"], "error", "{words:?}");
        assert!(line["msg"].as_str().is_some_and(|msg| msg.contains(message)), "{words:?}: {line}");
    }
    assert!(!bundle.state_root().exists(), "nothing was made");
}

#[test]
fn a_log_in_text_has_what_was_not_understood_too() {
    let Some(bundle) = shell("true") else { return };
    bundle.runtime(&["--log=log", "start"]).expect_err(1, "<ID>");
    let text = logged(&bundle);
    assert!(text.starts_with("time=\"20") && text.ends_with("not provided: <ID>\"\n"), "{text}");
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_counts() {
    let Some(bundle) = shell("echo out") else { return };
    bundle.write();
    let words =
        ["--log-format", "text", "--log-format", "json", "--log", "/nowhere/log", "--log", "log", "--debug"];
    let words = [&words, &["--debug", "run", "--bundle", "/nowhere", "--bundle", ".", "{id}"][..]].concat();
    assert_eq!(bundle.runtime(&words).expect_ok(), "out\n");
    bundle.runtime(&[&words[..9], &["start"]].concat()).expect_err(1, "<ID>");
    assert!(logged(&bundle).starts_with('{'));
}

#[test]
fn help_and_version_are_answers() {
    let Some(bundle) = shell("true") else { return };
    for words in [&["--help"][..], &["help"], &[], &["--log", "log"]] {
        let answer = bundle.runtime(words);
        assert!(answer.code == 0 && answer.out.contains("Usage: wherry-runtime"), "{words:?}: {answer:?}");
        assert_eq!(answer.err, "", "{words:?}");
    }
    for words in [&["create", "--help"][..], &["help", "create"]] {
        let answer = bundle.runtime(words);
        assert!(answer.code == 0 && answer.out.contains("--bundle <DIR>"), "{words:?}: {answer:?}");
    }
    assert_eq!(logged(&bundle), "");
}

#[test]
fn a_log_that_cannot_be_written_is_an_error_before_anything_is_done() {
    let Some(bundle) = shell("true") else { return };
    bundle.write();
    bundle
        .runtime(&["--log", "/nowhere/log", "run", "{id}"])
        .expect_err(1, "open --log /nowhere/log: No such file");
    assert!(!bundle.state_root().exists(), "nothing was made");
}
