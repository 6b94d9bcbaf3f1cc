use super::*;
use crate::{
    clock::SECOND_NS,
    pod::{
        fixtures::{ended, pod},
        state::{BackOff, Memory},
    },
};
use agent_protocol::{Deletion, Pod, RestartPolicy};
use proptest::prelude::*;

/// A pod and what the actions that were decided for it would have done.
struct Model {
    pod: PodState,
    now_ns: u64,
    pending: Vec<Action>,
    /// When a container last ended, by index.
    ended_ns: Vec<Option<u64>>,
}

impl Model {
    fn new(spec: Pod) -> Self {
        let pod = PodState::new(spec, SECOND_NS);
        let ended_ns = vec![None; pod.containers.len()];
        Self { pod, now_ns: SECOND_NS, pending: Vec::new(), ended_ns }
    }

    /// Decides; every rule that holds for one decision is checked here.
    fn decide(&mut self) {
        let ending = self.pod.ending();
        let before = self.pod.clone();
        let (actions, _) = decide(&mut self.pod, self.now_ns);
        for action in &actions {
            let twice = |other: &Action| match (action, other) {
                (Action::Run { index: a }, Action::Run { index: b })
                | (Action::PullImage { index: a }, Action::PullImage { index: b }) => a == b,
                (Action::MakeSandbox, Action::MakeSandbox) | (Action::TearDown, Action::TearDown) => true,
                _ => false,
            };
            assert!(!self.pending.iter().any(twice), "{action:?} is under way already");
            match action {
                Action::Run { index } => {
                    assert!(!ending, "a pod that ends runs nothing");
                    let initialized = before.initialized();
                    assert!(before.is_init(*index) || initialized, "before the init containers are through");
                    assert!(matches!(before.sandbox, Sandbox::Ready { .. }));
                    let never = before.spec.restart_policy == RestartPolicy::Never;
                    let ran = self.ended_ns[*index].is_some();
                    assert!(!(never && ran && !before.is_sidecar(*index)), "it never restarts");
                }
                Action::PullImage { .. } => assert!(!ending, "a pod that ends pulls nothing"),
                Action::TearDown => {
                    let live = before.containers.iter().any(|container| container.is_live());
                    assert!(
                        !live || !matches!(before.sandbox, Sandbox::Ready { .. }),
                        "while something runs"
                    );
                }
                Action::MakeSandbox | Action::Stop { .. } => {}
            }
        }
        self.pending.extend(actions);
    }

    /// One action comes to its end, well or not.
    fn finish(&mut self, choice: usize, good: bool) {
        if self.pending.is_empty() {
            return;
        }
        match self.pending.swap_remove(choice % self.pending.len()) {
            Action::MakeSandbox => {
                self.pod.found = false;
                self.pod.sandbox = if good {
                    Sandbox::Ready { ip: None }
                } else {
                    let Sandbox::Busy { attempts } = self.pod.sandbox else {
                        panic!("{:?}", self.pod.sandbox)
                    };
                    let retry_ns = self.now_ns + SECOND_NS;
                    Sandbox::Failed { message: "no".into(), retry_ns, attempts: attempts + 1 }
                };
            }
            Action::PullImage { index } => {
                self.pod.containers[index].image = if good {
                    ImageState::Present { name: "img".into(), id: "sha256:0".into() }
                } else {
                    let retry_ns = self.now_ns + 10 * SECOND_NS;
                    ImageState::Failed { reason: "ErrImagePull".into(), message: String::new(), retry_ns }
                };
            }
            Action::Run { index } => {
                self.pod.containers[index].started = good;
                self.pod.containers[index].run = if good {
                    Run::Running { id: "run".into(), started_ns: self.now_ns }
                } else {
                    Run::Waiting
                };
            }
            Action::Stop { index, .. } => self.end(index, 137),
            Action::TearDown => {
                self.pod.sandbox = Sandbox::Absent;
                self.pod.gone = self.pod.removed || self.pod.spec.deletion.is_some();
            }
        }
    }

    fn end(&mut self, index: usize, code: i32) {
        let run = &self.pod.containers[index].run;
        if let Run::Running { started_ns, .. } | Run::Stopping { started_ns, .. } = run {
            let ended = ended(code, *started_ns, self.now_ns);
            self.pod.containers[index].run = Run::Exited(ended);
            self.ended_ns[index] = Some(self.now_ns);
        }
    }

    fn delete(&mut self) {
        self.pod.spec.deletion.get_or_insert(Deletion { grace_s: 30, requested_ns: self.now_ns });
    }

    /// Everything ends well from here on; true when nothing more is decided.
    fn settle(&mut self) -> bool {
        for _ in 0..200 {
            self.decide();
            if self.pending.is_empty() {
                return true;
            }
            self.finish(0, true);
        }
        false
    }
}

fn names(actions: &[Action]) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::MakeSandbox => "sandbox".to_owned(),
        Action::PullImage { index } => format!("pull {index}"),
        Action::Run { index } => format!("run {index}"),
        Action::Stop { index, .. } => format!("stop {index}"),
        Action::TearDown => "tear down".to_owned(),
    };
    actions.iter().map(name).collect()
}

#[test]
fn a_pod_starts_step_by_step() {
    let mut model = Model::new(pod(RestartPolicy::Always, &["i"], &["a", "b"]));
    let steps: [(&str, &[&str]); 7] = [
        ("", &["sandbox"]),
        ("finish", &["pull 0"]),
        ("finish", &["run 0"]),
        ("finish", &[]),
        ("exit 0", &["pull 1", "pull 2"]),
        ("finish", &["run 1"]),
        ("finish", &["run 2"]),
    ];
    for (event, expected) in steps {
        match event {
            "finish" => model.finish(0, true),
            "exit 0" => model.end(0, 0),
            _ => {}
        }
        let known = model.pending.len();
        model.decide();
        assert_eq!(names(&model.pending[known..]), expected, "after {event:?}");
    }
}

#[test]
fn restarts_follow_the_policy_and_the_back_off() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, code, again) in
        [(Always, 0, true), (Always, 1, true), (OnFailure, 0, false), (OnFailure, 1, true), (Never, 1, false)]
    {
        let mut model = Model::new(pod(policy, &[], &["a"]));
        assert!(model.settle());
        model.end(0, code);
        model.decide();
        assert_eq!(model.pending.len(), usize::from(again), "{policy:?} after {code}");
    }
    let mut model = Model::new(pod(Always, &[], &["a"]));
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(model.settle());
        model.end(0, 1);
        let ended_ns = model.now_ns;
        let (mut actions, mut wake_ns) = decide(&mut model.pod, model.now_ns);
        if let Some(at_ns) = wake_ns.take() {
            model.now_ns = at_ns;
            (actions, _) = decide(&mut model.pod, model.now_ns);
        }
        assert_eq!(names(&actions), ["run 0"]);
        waits.push((model.now_ns - ended_ns) / SECOND_NS);
        model.pending.extend(actions);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert!(model.settle());
    model.now_ns += 601 * SECOND_NS;
    model.end(0, 1);
    let (_, wake_ns) = decide(&mut model.pod, model.now_ns);
    assert_eq!(wake_ns, Some(model.now_ns + 10 * SECOND_NS), "ten good minutes are forgiven");
}

#[test]
fn a_pod_that_ends_stops_its_containers_and_then_goes() {
    let mut model = Model::new(pod(RestartPolicy::Always, &["side"], &["a"]));
    model.pod.spec.init_containers[0].restart_always = true;
    assert!(model.settle());
    model.delete();
    model.decide();
    let deadline_ns = model.now_ns + 30 * SECOND_NS;
    assert_eq!(model.pending, [Action::Stop { index: 1, deadline_ns }], "a sidecar ends last");
    model.pod.spec.deletion = Some(Deletion { grace_s: 0, requested_ns: model.now_ns });
    model.pending.clear();
    model.decide();
    let now_ns = model.now_ns;
    assert_eq!(model.pending, [Action::Stop { index: 1, deadline_ns: now_ns }], "a shorter grace counts");
    model.finish(0, true);
    model.decide();
    assert_eq!(names(&model.pending), ["stop 0"]);
    model.finish(0, true);
    model.decide();
    assert_eq!(names(&model.pending), ["tear down"]);
    model.finish(0, true);
    model.decide();
    assert!(model.pod.gone && model.pending.is_empty());
}

#[test]
fn what_an_earlier_agent_left_is_taken_over_first() {
    let mut before = Model::new(pod(RestartPolicy::Always, &[], &["a"]));
    assert!(before.settle());
    let mut model = Model::new(before.pod.spec.clone());
    Memory::of(&before.pod).restore(&mut model.pod);
    model.pod.found = true;
    model.delete();
    model.decide();
    assert_eq!(names(&model.pending), ["sandbox"]);
    model.finish(0, true);
    model.decide();
    assert_eq!(names(&model.pending), ["stop 0"], "it gets its grace");
}

#[test]
fn a_deadline_fails_the_pod() {
    let mut model = Model::new(pod(RestartPolicy::Always, &[], &["a"]));
    model.pod.spec.active_deadline_s = Some(5);
    assert!(model.settle());
    let (_, wake_ns) = decide(&mut model.pod, model.now_ns);
    assert_eq!(wake_ns, Some(model.pod.start_ns + 5 * SECOND_NS));
    model.now_ns = model.pod.start_ns + 5 * SECOND_NS;
    model.decide();
    assert_eq!(model.pod.failed.as_ref().map(|(reason, _)| reason.as_str()), Some("DeadlineExceeded"));
}

#[test]
fn a_container_that_lacks_its_config_waits_without_a_pull() {
    let mut model = Model::new(pod(RestartPolicy::Always, &[], &["a"]));
    model.pod.spec.containers[0].config_error = Some("configmap \"c\" not found".into());
    assert!(model.settle());
    assert_eq!(model.pod.containers[0].run, Run::Waiting);
    assert_eq!(model.pod.containers[0].image, ImageState::Unknown);
    model.pod.spec.containers[0].config_error = None;
    assert!(model.settle());
    assert!(matches!(model.pod.containers[0].run, Run::Running { .. }));
}

#[test]
fn back_off_doubles_to_five_minutes() {
    let mut back_off = BackOff::default();
    let delays: Vec<u64> = (0..7)
        .map(|_| {
            back_off.failed(0, 0);
            back_off.delay_s
        })
        .collect();
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
}

proptest! {
    #[test]
    fn nothing_runs_twice_and_what_is_deleted_goes(
        policy in prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
        sidecar in any::<bool>(),
        events in proptest::collection::vec((0u8..8, 0usize..8, any::<bool>()), 0..80),
    ) {
        let mut spec = pod(policy, &["i", "j"], &["a", "b"]);
        spec.init_containers[0].restart_always = sidecar;
        let mut model = Model::new(spec);
        for (kind, choice, good) in events {
            model.decide();
            match kind {
                0..=3 => model.finish(choice, good),
                4 | 5 => model.end(choice % 4, i32::from(!good)),
                6 => model.now_ns += choice as u64 * 60 * SECOND_NS,
                _ => if choice == 0 { model.delete() },
            }
        }
        model.delete();
        prop_assert!(model.settle(), "{:?}", model.pod);
        prop_assert!(model.pod.gone, "{:?}", model.pod);
    }
}
