//! CVE-2019-5736: the runtime's own file, found through /proc/PID/exe by a process of a container and written to once nobody runs it any more.

use crate::bundle::{Bundle, RUNTIME, shell};
use serde_json::json;
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Finds the victim by its arguments, opens what it runs, lets it end, and then writes until it may: as long as the file is run it is busy.
const ATTACK: &str = r#"
until victim=$(grep -l '[f]ifo' /proc/[0-9]*/cmdline 2>/dev/null); do :; done
exec 9<${victim%/cmdline}/exe
: >/fifo
i=0
while [ $i -lt 3000 ]; do
    i=$((i+1))
    if { echo overwritten >/proc/self/fd/9; } 2>/dev/null; then break; fi
done
echo $i >/tried
"#;

/// A container that runs the attack on `victim`, a program that blocks in opening /fifo; the runtime is a copy that may be harmed.
fn attack(victim: &[&str]) -> Option<(Bundle, PathBuf)> {
    let mut bundle = shell("sleep 1000")?;
    // Where it is linked dynamically, it shall run in the container all the same.
    for libraries in ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|dir| Path::new(dir).exists()) {
        let mount = json!({"destination": libraries, "type": "bind", "source": libraries, "options": ["rbind", "ro"]});
        bundle = bundle.also("/mounts", mount);
    }
    let runtime = bundle.dir.join("runtime");
    fs::copy(RUNTIME, &runtime).expect("copied");
    fs::write(bundle.root().join("attack"), ATTACK).expect("written");
    let script = bundle.root().join("script");
    fs::write(&script, "#!/proc/self/exe --root\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    nix::unistd::mkfifo(&bundle.root().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    bundle.write();
    let run = |words: &[&str]| bundle.answer(bundle.command_under(&[], &runtime, words)).expect_ok();
    run(&["create", "{id}"]);
    run(&["start", "{id}"]);
    run(&[&["exec", "--detach", "{id}"], victim].concat());
    // Detached, or the runtime that waits for it would keep the file busy.
    run(&["exec", "--detach", "{id}", "sh", "/attack"]);
    bundle.wait_for("the attack ends", || bundle.root().join("tried").exists());
    Some((bundle, runtime))
}

fn expect_unharmed(runtime: &Path) {
    assert!(
        fs::read(runtime).expect("read") == fs::read(RUNTIME).expect("read"),
        "the runtime was overwritten"
    );
}

#[test]
fn by_an_exec_of_proc_self_exe() {
    // `exec --process` reads the file before anything else.
    let Some((_bundle, runtime)) = attack(&["/proc/self/exe", "exec", "--process", "/fifo", "x"]) else {
        return;
    };
    expect_unharmed(&runtime);
}

#[test]
fn by_a_program_whose_interpreter_is_proc_self_exe() {
    let Some((_bundle, runtime)) = attack(&["/script", "exec", "--process", "/fifo", "x"]) else { return };
    expect_unharmed(&runtime);
}

/// The first process of a created container is still the runtime, for as long as nobody starts it.
#[test]
fn through_a_container_that_is_created() {
    let Some(bundle) = shell("true") else { return };
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_ok();
    let pid = bundle.state()["pid"].as_i64().expect("a pid");
    let exe = fs::File::options().write(true).truncate(true).open(format!("/proc/{pid}/exe"));
    // Without care it would be ETXTBSY, which ends when nobody runs it any more.
    assert_eq!(exe.expect_err("read-only").kind(), ErrorKind::ReadOnlyFilesystem);
}
