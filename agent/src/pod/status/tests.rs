use super::*;
use crate::{
    clock::SECOND_NS,
    pod::fixtures::{ended, pod},
};
use RestartPolicy::{Always, Never, OnFailure};

fn running() -> Run {
    Run::Running { id: "run".into(), started_ns: 1 }
}

fn exited(code: i32) -> Run {
    Run::Exited(ended(code, 1, 2))
}

/// What it is, the policy, runs of init and main containers, and the phase they make.
type Case<'a> = (&'a str, RestartPolicy, &'a [Run], &'a [Run], Phase);

#[test]
fn phases_are_kubelets() {
    let cases: [Case<'_>; 13] = [
        ("nothing yet", Always, &[], &[Run::Waiting, Run::Waiting], Phase::Pending),
        ("one of two", Always, &[], &[running(), Run::Creating], Phase::Pending),
        ("all run", Always, &[], &[running(), running()], Phase::Running),
        (
            "one is being stopped",
            Always,
            &[],
            &[Run::Stopping { id: "r".into(), started_ns: 1 }],
            Phase::Running,
        ),
        ("one has ended", Always, &[], &[running(), exited(1)], Phase::Running),
        ("all have ended, to run again", Always, &[], &[exited(0)], Phase::Running),
        ("all succeeded", OnFailure, &[], &[exited(0), exited(0)], Phase::Succeeded),
        ("one failed, to run again", OnFailure, &[], &[exited(0), exited(1)], Phase::Running),
        ("one failed", Never, &[], &[exited(0), exited(1)], Phase::Failed),
        ("all succeeded for good", Never, &[], &[exited(0)], Phase::Succeeded),
        ("init runs", Always, &[running()], &[Run::Waiting], Phase::Pending),
        ("init failed, to run again", Always, &[exited(1)], &[Run::Waiting], Phase::Pending),
        ("init failed", Never, &[exited(1)], &[Run::Waiting], Phase::Failed),
    ];
    for (name, policy, init, main, expected) in cases {
        let inits = &["i0", "i1"][..init.len()];
        let mains = &["m0", "m1"][..main.len()];
        let mut state = PodState::new(pod(policy, inits, mains), 1);
        for (container, run) in state.containers.iter_mut().zip(init.iter().chain(main)) {
            container.run = run.clone();
        }
        assert_eq!(phase(&state), expected, "{name}");
    }
    let mut failed = PodState::new(pod(Always, &[], &["m"]), 1);
    failed.containers[0].run = running();
    failed.failed = Some(("Evicted".into(), "why".into()));
    let status = status(&failed, 1);
    assert_eq!((status.phase, &*status.reason, &*status.message), (Phase::Failed, "Evicted", "why"));
}

/// The reason a container waits for, and its message.
fn waits(change: impl FnOnce(&mut PodState)) -> (String, String) {
    let mut state = PodState::new(pod(Always, &["i"], &["m"]), 1);
    state.containers[0].run = exited(0);
    change(&mut state);
    match status(&state, 5 * SECOND_NS).containers.remove(0).state {
        ContainerState::Waiting { reason, message } => (reason, message),
        other => (format!("{other:?}"), String::new()),
    }
}

#[test]
fn waiting_has_kubelets_reasons() {
    let image = |reason: &str| {
        let failed = ImageState::Failed { reason: reason.into(), message: "m".into(), retry_ns: 0 };
        waits(|state| state.containers[1].image = failed).0
    };
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
        assert_eq!(image(reason), reason);
    }
    assert_eq!(waits(|_| {}).0, "ContainerCreating");
    assert_eq!(waits(|state| state.containers[0].run = running()).0, "PodInitializing");
    let lacks = |state: &mut PodState| {
        state.spec.containers[0].config_error = Some("couldn't find key K in ConfigMap d/c".into());
    };
    let expected = ("CreateContainerConfigError".into(), "couldn't find key K in ConfigMap d/c".into());
    assert_eq!(waits(lacks), expected);
    let trouble = |state: &mut PodState| {
        state.containers[1].trouble = Some(("CreateContainerError".into(), "no such file".into()));
    };
    assert_eq!(waits(trouble), ("CreateContainerError".into(), "no such file".into()));
    let crash = |state: &mut PodState| {
        state.containers[1].last = Some(ended(1, 1, 2));
        state.containers[1].back_off.delay_s = 160;
        state.containers[1].back_off.until_ns = 9 * SECOND_NS;
    };
    let message = "back-off 2m40s restarting failed container=m pod=p_d(u)";
    assert_eq!(waits(crash), ("CrashLoopBackOff".into(), message.into()));
}

#[test]
fn init_containers_that_are_through_are_ready() {
    let mut state = PodState::new(pod(Always, &["i"], &["m"]), 1);
    state.containers[0].run = exited(0);
    let status = status(&state, 1);
    assert!(status.initialized && status.init_containers[0].ready && !status.containers[0].ready);
}
