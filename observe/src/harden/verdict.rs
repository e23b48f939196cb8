//! Whether a run under a policy has got everything that the recorded ones had.

use super::needs::{MEMORY_CALLS, Needs};
use super::read::{Call, Recorded};

/// Errors by which a kernel says that something is not allowed.
const DENIALS: [&str; 3] = ["EACCES", "EPERM", "EROFS"];

impl Needs {
    /// What was refused in `run` that none of the runs behind these needs was refused, and what else went another way: one line
    /// each, none if all is well.
    #[must_use]
    pub fn refusals(&self, run: &Recorded) -> Vec<String> {
        let mut all: Vec<String> =
            run.system_calls.workload.iter().flat_map(|call| self.of_call(call)).collect();
        all.extend(self.of_capabilities(run));
        let kills = run.cgroup.oom_kills.unwrap_or(0);
        if kills > 0 {
            all.push(format!("the limit of memory has cost {kills} processes their lives"));
        }
        let exit = run.exit.status();
        if exit.is_none_or(|exit| !self.exits.contains(&exit)) {
            let before: Vec<String> = self.exits.iter().map(ToString::to_string).collect();
            let now = exit.map_or_else(|| "without one".to_owned(), |exit| exit.to_string());
            all.push(format!(
                "the program ended with exit code {now}; while it was recorded: {}",
                before.join(", ")
            ));
        }
        let lost = run.events_lost();
        if lost > 0 {
            all.push(format!("{lost} events are missing, and refusals may be among them"));
        }
        all.sort();
        all
    }

    fn of_call(&self, call: &Call) -> Vec<String> {
        let name = &call.name;
        let mut all = Vec::new();
        // Of a call that got through before, some may have been refused; not all.
        let is_cut_off = self.calls.contains(name) && call.returned == 0 && call.unreturned == 0;
        let is_known = self.answered.contains_key(name) || self.refused.contains(name);
        if call.refused > 0 && (is_cut_off || !is_known) {
            all.push(format!("system call {name} was refused by the filter, {}", times(call.refused)));
        }
        let known = self.errors.get(name);
        for (error, &count) in &call.errors {
            // The filter's own answers are among them.
            let count = if error == "EPERM" { count.saturating_sub(call.refused) } else { count };
            let is_denied = count > 0 && DENIALS.contains(&error.as_str());
            if is_denied && known.is_none_or(|known| !known.contains(error)) {
                all.push(format!(
                    "system call {name} failed with {error}, {}; never while it was recorded",
                    times(count)
                ));
            }
        }
        all
    }

    fn of_capabilities(&self, run: &Recorded) -> Vec<String> {
        let used = run.uses.as_ref().and_then(|uses| uses.capabilities.as_deref()).unwrap_or_default();
        let missed = used.iter().filter(|used| {
            used.refused > 0
                && self.held.contains(&used.name)
                && !self.missed.contains(&used.name)
                && !used.calls.keys().all(|call| MEMORY_CALLS.contains(&call.as_str()))
        });
        missed.map(|used| format!("capability {} was refused, {}", used.name, times(used.refused))).collect()
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}
