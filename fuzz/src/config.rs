//! `config.json` into a plan.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::{able_host, bare_host, one_line};
use skiff_runtime::oci::{Bundle, Terms, json, plan};

fuzz_target!(|text: &str| {
    let spec = match json::read(text) {
        Ok(spec) => spec,
        Err(message) => return one_line(&message),
    };
    let bundle = Bundle { path: "/bundle".into(), spec };
    for (facts, systemd_cgroup) in [(able_host(), false), (able_host(), true), (bare_host(), false)] {
        let terms = Terms { root: "/run/skiff".into(), systemd_cgroup, ..Terms::default() };
        match plan(&bundle, "id", &facts, &terms) {
            Ok(plan) => check(&plan),
            Err(error) => one_line(&error.to_string()),
        }
    }
});

/// What holds for every plan.
fn check(plan: &skiff_runtime::Plan) {
    assert!(!plan.process.argv.is_empty());
    let caps = plan.process.caps;
    assert!(caps.permitted.contains(caps.effective));
    assert!(caps.permitted.contains(caps.ambient) && caps.inheritable.contains(caps.ambient));
    for (path, _) in &plan.sysctls {
        let path = path.to_string_lossy();
        assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path}");
    }
    assert!(
        plan.process
            .seccomp
            .as_ref()
            .is_none_or(|filter| !filter.flags.listener || plan.process.listener.is_some())
    );
}
