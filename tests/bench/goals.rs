//! What is wanted of a measurement, printed beside what was measured.

/// A measurement and the most that it should be, both in the unit that `what` says.
pub struct Goal {
    pub what: String,
    pub measured: f64,
    pub at_most: f64,
}

pub fn print(goals: &[Goal]) {
    println!("\n| goal | measured | wanted | |\n|---|---|---|---|");
    for Goal { what, measured, at_most } in goals {
        let word = if measured <= at_most { "met" } else { "missed" };
        println!("| {what} | {measured:.2} | at most {at_most} | {word} |");
    }
}
