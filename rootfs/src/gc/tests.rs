use super::*;
use proptest::prelude::*;

fn image(digest: &str, diff_ids: &[&str], last_wanted_s: u64, in_use: bool) -> Candidate {
    let diff_ids = diff_ids.iter().map(|id| (*id).to_owned()).collect();
    Candidate { digest: digest.to_owned(), diff_ids, last_wanted_s, in_use, named: true }
}

#[test]
fn thresholds_are_kubelets() {
    let policy = |high_percent, low_percent| Policy { high_percent, low_percent, minimum_age_s: 0 };
    // Capacity, available, high, low, bytes to free.
    let cases = [
        ("well below", 1000, 500, 85, 80, 0),
        ("one percent below", 1000, 160, 85, 80, 0),
        ("at the threshold", 1000, 150, 85, 80, 50),
        ("rounded up, as kubelet does", 1000, 159, 85, 80, 41),
        ("full", 1000, 0, 85, 80, 200),
        ("100 is off", 1000, 0, 100, 80, 0),
        ("0 frees everything", 1000, 1000, 0, 0, 0),
        ("no disk", 0, 0, 85, 80, 0),
        ("as large as it gets", u64::MAX, 0, 85, 80, u64::MAX / 5),
    ];
    for (name, capacity_bytes, available_bytes, high, low, expected) in cases {
        let disk = Disk { capacity_bytes, available_bytes };
        assert_eq!(wanted(disk, policy(high, low)), expected, "{name}");
    }
}

#[test]
fn the_least_recently_wanted_go_first() {
    let layers: BTreeMap<String, u64> = [("base", 100), ("a", 10), ("b", 20), ("c", 30), ("nil", 0)]
        .map(|(id, bytes)| (id.to_owned(), bytes))
        .into();
    let (old, mid, new) = (
        image("old", &["base", "a"], 1, false),
        image("mid", &["base", "b"], 2, false),
        image("new", &["base", "c"], 3, false),
    );
    let used = |image: &Candidate| Candidate { in_use: true, ..image.clone() };
    let twin = image("twin", &["base", "a"], 2, false);
    type Row<'a> = (&'a str, Vec<Candidate>, u64, u64, &'a [&'a str], u64);
    let cases: [Row<'_>; 9] = [
        ("nothing here", vec![], 5, 9, &[], 0),
        ("the oldest is enough", vec![new.clone(), old.clone(), mid.clone()], 10, 9, &["old"], 10),
        ("as many as it takes", vec![new.clone(), old.clone(), mid.clone()], 11, 9, &["old", "mid"], 30),
        (
            "a shared layer goes with its last image",
            vec![old.clone(), mid.clone()],
            31,
            9,
            &["old", "mid"],
            130,
        ),
        ("one in use stays with its layers", vec![used(&old), mid.clone()], 500, 9, &["mid"], 20),
        ("a young one stays", vec![old.clone(), mid.clone()], 500, 1, &["old"], 10),
        ("all in use", vec![used(&old), used(&mid)], 500, 9, &[], 0),
        ("twins go together", vec![old.clone(), twin.clone()], 1, 9, &["old", "twin"], 110),
        (
            "what frees nothing stays",
            vec![used(&twin), old, image("nil", &["nil"], 1, false)],
            500,
            9,
            &[],
            0,
        ),
    ];
    for (name, images, wanted_bytes, before_s, remove, frees_bytes) in cases {
        let remove = remove.iter().map(|digest| (*digest).to_owned()).collect();
        assert_eq!(
            plan(&images, &layers, wanted_bytes, before_s),
            Plan { remove, frees_bytes, wanted_bytes },
            "{name}"
        );
    }
}

proptest! {
    /// Nothing in use or young goes; the count is what really goes; it is enough, or nothing that may go would free more.
    #[test]
    fn a_plan_is_safe_and_sufficient(
        images in proptest::collection::vec((proptest::collection::btree_set(0usize..8, 0..5), 0u64..20, any::<bool>()), 0..12),
        sizes in proptest::collection::vec(0u64..1000, 8),
        wanted_bytes in 0u64..5000,
        before_s in 0u64..20,
    ) {
        let layers: BTreeMap<String, u64> = sizes.iter().enumerate().map(|(id, bytes)| (id.to_string(), *bytes)).collect();
        let images: Vec<Candidate> = images.into_iter().enumerate().map(|(number, (ids, last_wanted_s, in_use))| Candidate {
            digest: number.to_string(),
            diff_ids: ids.iter().map(usize::to_string).collect(),
            last_wanted_s,
            in_use,
            named: true,
        }).collect();
        let plan = plan(&images, &layers, wanted_bytes, before_s);
        let may_go = |image: &Candidate| !image.in_use && image.last_wanted_s <= before_s;
        let bytes = |kept: &dyn Fn(&Candidate) -> bool| -> u64 {
            let ids: BTreeSet<&String> = images.iter().filter(|image| kept(image)).flat_map(|image| &image.diff_ids).collect();
            ids.into_iter().map(|id| layers[id]).sum()
        };
        let all = bytes(&|_| true);
        let removed = |image: &Candidate| plan.remove.contains(&image.digest);
        prop_assert!(images.iter().filter(|image| removed(image)).all(may_go));
        prop_assert_eq!(plan.frees_bytes, all - bytes(&|image| !removed(image)));
        if plan.frees_bytes < wanted_bytes {
            prop_assert_eq!(plan.frees_bytes, all - bytes(&|image| !may_go(image)));
        }
    }
}
