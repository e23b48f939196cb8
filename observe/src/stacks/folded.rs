//! A line per stack, `process;outer;inner count`: what flame graph tools read.

use std::collections::BTreeMap;

use super::Profile;

impl Profile {
    /// The stacks, those with the same names added up, in order.
    #[must_use]
    pub fn folded(&self) -> String {
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for stack in &self.stacks {
            let names: Vec<String> = self.names(stack).map(plain).collect();
            *lines.entry(names.join(";")).or_default() += stack.samples;
        }
        lines.into_iter().map(|(names, samples)| format!("{names} {samples}\n")).collect()
    }
}

/// A name without what separates names.
fn plain(name: &str) -> String {
    name.replace([';', '\n'], ":")
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::example;

    #[test]
    fn a_line_per_stack() {
        let expected = "old;[unknown] 1\nold;main 3\nold;main;[old] 1\nold;main;do_it 1\n";
        assert_eq!(example().folded(), expected);
    }
}
