//! Controllers on a seed: a model of the API, a world that lags behind it, and random events in between.

use super::{
    deployment,
    object::{int, merge, rfc3339, text},
    plan::{Delete, Part, Patch, Plan, Write},
    queue::Queue,
    replicaset,
    tasks::{self, Task},
    world::{World, resource},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Objects and the changes that the world has not seen yet.
struct Model {
    objects: BTreeMap<String, Value>,
    revision: u64,
    unseen: VecDeque<Unseen>,
    world: World,
    queue: Queue,
    now_s: i64,
    serial: u64,
}

/// Key, revision, the value after it.
type Unseen = (String, u64, Option<Arc<[u8]>>);

impl Model {
    fn new(deployment: Value) -> Self {
        let mut model = Self {
            objects: BTreeMap::new(),
            revision: 0,
            unseen: VecDeque::new(),
            world: World::default(),
            queue: Queue::default(),
            now_s: 1_000_000,
            serial: 0,
        };
        model.create(resource::DEPLOYMENTS, deployment);
        model
    }

    fn put(&mut self, key: String, object: Option<Value>) {
        self.revision += 1;
        let bytes = object.as_ref().map(|object| Arc::from(object.to_string().into_bytes()));
        match object {
            Some(object) => drop(self.objects.insert(key.clone(), object)),
            None => drop(self.objects.remove(&key)),
        }
        self.unseen.push_back((key, self.revision, bytes));
    }

    fn create(&mut self, resource: &str, mut object: Value) {
        self.serial += 1;
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            meta["name"] = format!("{}{:05}", text(&meta["generateName"]), self.serial).into();
        }
        meta["namespace"] = "d".into();
        meta["uid"] = format!("uid-{}", self.serial).into();
        meta["generation"] = 1.into();
        meta["creationTimestamp"] = rfc3339(self.now_s).into();
        let key = format!("/{resource}/d/{}", text(&meta["name"]));
        if !self.objects.contains_key(&key) {
            self.put(key, Some(object));
        }
    }

    fn patch(&mut self, patch: &Patch) {
        let key = format!("/{}", patch.key);
        let Some(mut object) = self.objects.get(&key).cloned() else { return };
        if object["metadata"]["uid"] != patch.uid.as_str() {
            return;
        }
        let spec = object["spec"].clone();
        if patch.change.apply(&mut object) {
            if patch.part == Part::Main && object["spec"] != spec {
                object["metadata"]["generation"] = (int(&object["metadata"]["generation"]) + 1).into();
            }
            self.put(key, Some(object));
        }
    }

    /// Pods are marked and leave later, as on a node; anything else goes at once.
    fn delete(&mut self, delete: &Delete) {
        let key = format!("/{}", delete.key);
        let Some(mut object) = self.objects.get(&key).cloned() else { return };
        if delete.key.resource != resource::PODS {
            return self.put(key, None);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = rfc3339(self.now_s + 30).into();
            self.put(key, Some(object));
        }
    }

    fn perform(&mut self, plan: Plan) {
        for write in plan.writes {
            match write {
                Write::Create { resource, object, .. } => self.create(resource, object),
                Write::Patch(patch) => self.patch(&patch),
                Write::Delete(delete) => self.delete(&delete),
                Write::Note(_) => {}
            }
        }
    }

    /// The world takes in one change.
    fn see(&mut self) {
        let Some((key, revision, value)) = self.unseen.pop_front() else { return };
        let mut touched = BTreeSet::new();
        for changed in self.world.apply(&key, revision, value.as_ref()) {
            tasks::affected(&self.world, &changed, &mut touched);
        }
        self.queue.add(touched);
    }

    /// One task that may run does.
    fn work(&mut self, choice: usize) {
        let mut ready = self.queue.take(self.world.revision, self.now_s as u64 * 1000);
        if ready.is_empty() {
            return;
        }
        let task = ready.swap_remove(choice % ready.len());
        self.queue.add(ready);
        let plan = match &task {
            Task::Deployment(at) => deployment::sync(&self.world, at, self.now_s),
            Task::ReplicaSet(at) => replicaset::sync(&self.world, at, self.now_s, None),
            _ => Plan::default(),
        };
        if let Some(at_s) = plan.again_at_s {
            self.queue.wake_at(&task, at_s as u64 * 1000);
        }
        if !plan.writes.is_empty() {
            self.queue.started(&task);
            self.perform(plan);
            self.queue.finished(&task, self.revision);
        }
    }

    fn pods(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.objects.iter().filter(|(key, _)| key.starts_with("/pods/"))
    }

    fn active(&self) -> usize {
        self.pods().filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null()).count()
    }

    fn available(&self) -> usize {
        let ready = |pod: &Value| pod["status"]["conditions"][0]["status"] == "True";
        let active = self.pods().filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null());
        active.filter(|(_, pod)| ready(pod)).count()
    }

    /// A pod gets ready, or one that is being deleted leaves.
    fn node_acts(&mut self, choice: usize) {
        let idle = |pod: &Value| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["conditions"][0]["status"] == "True"
        };
        let busy: Vec<String> =
            self.pods().filter(|(_, pod)| !idle(pod)).map(|(key, _)| key.clone()).collect();
        if busy.is_empty() {
            return;
        }
        let key = busy[choice % busy.len()].clone();
        let mut pod = self.objects[&key].clone();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return self.put(key, None);
        }
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(self.now_s)});
        pod["spec"]["nodeName"] = "n".into();
        pod["status"] = json!({"phase": "Running", "conditions": [ready]});
        self.put(key, Some(pod));
    }

    fn change_deployment(&mut self, patch: Value) {
        let key = format!("/{}/d/web", resource::DEPLOYMENTS);
        let mut object = self.objects[&key].clone();
        if merge(&mut object, &patch) {
            object["metadata"]["generation"] = (int(&object["metadata"]["generation"]) + 1).into();
            self.put(key, Some(object));
        }
    }

    fn deployment(&self) -> &Value {
        &self.objects[&format!("/{}/d/web", resource::DEPLOYMENTS)]
    }

    /// Everything that can happen does, until nothing does any more.
    fn settle(&mut self) {
        for round in 0..4000 {
            let before = self.revision;
            while !self.unseen.is_empty() {
                self.see();
            }
            for choice in 0..8 {
                self.work(choice);
            }
            if self.revision == before && self.unseen.is_empty() {
                self.node_acts(round);
                if self.revision == before {
                    self.now_s += 1;
                    if round > 200 && self.is_complete() {
                        return;
                    }
                }
            }
        }
        panic!("never settles: {:#}", self.deployment());
    }

    fn is_complete(&self) -> bool {
        let (spec, status) = (&self.deployment()["spec"], &self.deployment()["status"]);
        let all = ["replicas", "updatedReplicas", "availableReplicas"];
        all.iter().all(|field| int(&status[field]) == int(&spec["replicas"]))
            && status["observedGeneration"] == self.deployment()["metadata"]["generation"]
    }
}

fn deployment(replicas: i64, surge: &Value, unavailable: &Value, min_ready_s: i64) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "minReadySeconds": min_ready_s, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate",
                     "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
        "template": {"metadata": {"labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "main", "image": "1"}]}}}})
}

fn image(number: usize) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": number.to_string()}]}}}})
}

fn amount() -> impl Strategy<Value = Value> {
    prop_oneof![(0i64..4).prop_map(Value::from), (0u8..100).prop_map(|p| format!("{p}%").into())]
}

proptest! {
    #[test]
    fn a_rolling_update_keeps_its_promises_at_every_step(
        replicas in 1i64..8,
        surge in amount(),
        unavailable in amount(),
        images in proptest::collection::vec(1usize..4, 1..4),
        events in proptest::collection::vec((0u8..8, 0usize..64), 50..400),
    ) {
        let rolling = super::world::RollingUpdate { max_surge: surge.clone(), max_unavailable: unavailable.clone() };
        let fence = deployment::fenceposts(&rolling, replicas);
        let mut model = Model::new(deployment(replicas, &surge, &unavailable, 0));
        model.settle();
        let mut images = images.into_iter();
        for (index, (kind, choice)) in events.into_iter().enumerate() {
            if index % 100 == 0 && let Some(number) = images.next() {
                model.change_deployment(image(number));
            }
            match kind {
                0..=2 => model.see(),
                3..=5 => model.work(choice),
                6 => model.node_acts(choice),
                _ => model.now_s += 1,
            }
            let (active, available) = (model.active() as i64, model.available() as i64);
            prop_assert!(active <= replicas + fence.max_surge, "{active} pods");
            prop_assert!(available >= replicas - fence.max_unavailable, "{available} available");
        }
        model.settle();
        prop_assert_eq!(model.active() as i64, replicas);
    }

    #[test]
    fn whatever_the_user_does_the_deployment_converges(
        changes in proptest::collection::vec((0i64..9, 1usize..4, any::<bool>()), 1..6),
        events in proptest::collection::vec((0u8..8, 0usize..64), 10..200),
        recreate in any::<bool>(),
        min_ready_s in 0i64..3,
    ) {
        let mut first = deployment(3, &"25%".into(), &"25%".into(), min_ready_s);
        if recreate {
            first["spec"]["strategy"] = json!({"type": "Recreate"});
        }
        let mut model = Model::new(first);
        let mut changes = changes.into_iter();
        for (index, (kind, choice)) in events.into_iter().enumerate() {
            if index % 20 == 0 && let Some((replicas, number, paused)) = changes.next() {
                let mut patch = image(number);
                patch["spec"]["replicas"] = replicas.into();
                patch["spec"]["paused"] = paused.into();
                model.change_deployment(patch);
            }
            match kind {
                0..=2 => model.see(),
                3..=5 => model.work(choice),
                6 => model.node_acts(choice),
                _ => model.now_s += 1,
            }
        }
        model.change_deployment(json!({"spec": {"paused": false, "replicas": 4}}));
        model.settle();
        prop_assert_eq!(model.active(), 4);
        let wanted = model.deployment()["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        for (key, pod) in model.pods() {
            prop_assert_eq!(&pod["spec"]["containers"][0]["image"], &wanted, "{}", key);
        }
    }
}

#[test]
fn a_rollback_takes_the_old_replica_set_and_a_new_revision() {
    let mut model = Model::new(deployment(2, &1.into(), &0.into(), 0));
    model.settle();
    model.change_deployment(image(2));
    model.settle();
    model.change_deployment(image(1));
    model.settle();
    let sets: Vec<(&str, i64)> = model
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with("/replicasets"))
        .map(|(_, set)| {
            let revision = text(&set["metadata"]["annotations"]["deployment.kubernetes.io/revision"]);
            (revision, int(&set["spec"]["replicas"]))
        })
        .collect();
    assert_eq!(sets.len(), 2);
    assert!(sets.contains(&("3", 2)) && sets.contains(&("2", 0)), "{sets:?}");
    let history = model
        .objects
        .values()
        .any(|object| object["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1");
    assert!(history, "the old number is remembered");
}

#[test]
fn a_rollout_that_gets_nowhere_misses_its_deadline() {
    let mut first = deployment(1, &1.into(), &0.into(), 0);
    first["spec"]["progressDeadlineSeconds"] = 5.into();
    let mut model = Model::new(first);
    for _ in 0..100 {
        model.see();
        model.work(0);
        model.now_s += i64::from(model.unseen.is_empty());
    }
    let conditions = model.deployment()["status"]["conditions"].clone();
    let progressing = conditions.as_array().and_then(|list| list.iter().find(|c| c["type"] == "Progressing"));
    assert_eq!(progressing.map(|c| text(&c["reason"])), Some("ProgressDeadlineExceeded"));
}
