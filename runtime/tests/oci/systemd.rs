//! `--systemd-cgroup` against buses that are not well; with a real systemd it is tested in guests.

use crate::bundle::{Bundle, shell};
use serde_json::json;
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
};

/// The runtime's own limit is 25 s.
const SECONDS_MAX: &str = "60";

fn scope(bundle: Bundle) -> Bundle {
    let path = format!("oci.slice:test:{}", bundle.id);
    let bundle = bundle.with("/linux/cgroupsPath", json!(path));
    bundle.write();
    bundle
}

/// Creates with the bus at `bus` in the bundle; the error.
fn create(bundle: &Bundle) -> String {
    let command = bundle.command(&["--systemd-cgroup", "create", "{id}"]);
    let output = Command::new("timeout")
        .arg(SECONDS_MAX)
        .args(command.get_args().skip(3))
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bundle.dir.join("bus").display()))
        .current_dir(&bundle.dir)
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn expect_gone(bundle: Bundle) {
    assert!(!bundle.state_root().join(&bundle.id).exists(), "the state is left");
    // For the checks of the end: there was no cgroup.
    let own = format!("/{}/container", bundle.id);
    drop(bundle.with("/linux/cgroupsPath", json!(own)));
}

#[test]
fn a_bus_that_never_answers_is_an_error_in_time() {
    let Some(bundle) = shell("true").map(scope) else { return };
    let listener = UnixListener::bind(bundle.dir.join("bus")).expect("listens");
    let err = create(&bundle);
    assert!(
        err.contains(&format!(
            "start test-{}.scope by systemd: the bus gives no answer within 25 s",
            bundle.id
        )),
        "{err}"
    );
    drop(listener);
    expect_gone(bundle);
}

#[test]
fn a_bus_that_talks_without_answering_is_an_error_in_time() {
    let Some(bundle) = shell("true").map(scope) else { return };
    let listener = UnixListener::bind(bundle.dir.join("bus")).expect("listens");
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connected");
        let until = |stream: &mut UnixStream, word: &[u8]| {
            let (mut seen, mut byte) = (Vec::new(), [0]);
            while !seen.ends_with(word) && stream.read_exact(&mut byte).is_ok() {
                seen.push(byte[0]);
            }
        };
        until(&mut stream, b"EXTERNAL\r\n");
        stream.write_all(b"DATA\r\n").expect("written");
        until(&mut stream, b"DATA\r\n");
        stream.write_all(b"OK 0123\r\n").expect("written");
        until(&mut stream, b"BEGIN\r\n");
        // Signals, little-endian, without fields or body, as long as somebody listens.
        while stream.write_all(&[b'l', 4, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_ok() {}
    });
    let err = create(&bundle);
    assert!(err.contains("the bus gives no answer within 25 s"), "{err}");
    talker.join().expect("ends");
    expect_gone(bundle);
}

#[test]
fn a_bus_that_is_none_or_speaks_otherwise_is_an_error() {
    let Some(bundle) = shell("true").map(scope) else { return };
    let err = create(&bundle);
    assert!(err.contains("by systemd: No such file or directory"), "{err}");
    let listener = UnixListener::bind(bundle.dir.join("bus")).expect("listens");
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connected");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written");
        // Until the other side has had enough.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let err = create(&bundle);
    assert!(err.contains("the bus refuses this user"), "{err}");
    talker.join().expect("ends");
    expect_gone(bundle);
}

#[test]
fn a_path_or_property_that_is_none_is_refused() {
    for (path, annotations, words) in [
        ("/absolute", json!({}), "slice:prefix:name"),
        ("a.slice:b", json!({}), "slice:prefix:name"),
        (
            "a.slice:b:c",
            json!({"org.systemd.property.KillSignal": "word"}),
            "annotations: org.systemd.property.KillSignal",
        ),
    ] {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.with("/linux/cgroupsPath", json!(path)).with("/annotations", annotations);
        bundle.write();
        let err = create(&bundle);
        assert!(err.contains(words), "{err}");
        assert!(!bundle.state_root().exists(), "{path}: nothing was made");
        expect_gone(bundle);
    }
}
