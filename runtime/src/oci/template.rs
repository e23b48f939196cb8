//! The configuration to start from, as `spec` writes it: runc's, in meaning.
//!
//! One difference: no ambient capabilities. Those of runc before 1.2 were not inheritable, so the kernel refused them and
//! nobody noticed.

/// For root: `template/config.json`.
const ROOT: &str = include_str!("template/config.json");

/// Whose container the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Root's.
    Root,
    /// That of a user, with these ids, who is root in it.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// The text of a `config.json` that runs a shell in `rootfs`. Where the host has cgroup v2 alone (`unified`) there is a
/// cgroup namespace, as with runc.
#[must_use]
pub fn config(owner: Owner, unified: bool) -> String {
    let mut text = ROOT.to_owned();
    let mut change = |from: &str, to: &str| text = text.replacen(from, to, 1);
    if let Owner::User { uid, gid } = owner {
        // Only the user's own ids are mapped; no group 5, no network of one's own that somebody would have to connect,
        // and so no sysfs of one's own; cgroups belong to root.
        change("\t\t\t\t\"mode=0620\",\n\t\t\t\t\"gid=5\"\n", "\t\t\t\t\"mode=0620\"\n");
        change(
            "\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\"",
            "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\"",
        );
        change(
            "\"source\": \"/sys\",\n\t\t\t\"options\": [\n",
            "\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",\n",
        );
        change(RESOURCES, "");
        change("\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n", "");
        let users = format!("{}{}", mapping("uidMappings", uid), mapping("gidMappings", gid));
        change(
            "\t\t\"namespaces\": [\n",
            &format!("{users}\t\t\"namespaces\": [\n\t\t\t{{\n\t\t\t\t\"type\": \"user\"\n\t\t\t}},\n"),
        );
    }
    if unified {
        let mount = "\t\t\t{\n\t\t\t\t\"type\": \"mount\"\n\t\t\t}\n";
        let both = mount.trim_end().to_owned() + ",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}\n";
        change(mount, &both);
    }
    text
}

/// What root's configuration has of cgroups.
const RESOURCES: &str = "\t\t\"resources\": {
\t\t\t\"devices\": [
\t\t\t\t{
\t\t\t\t\t\"allow\": false,
\t\t\t\t\t\"access\": \"rwm\"
\t\t\t\t}
\t\t\t]
\t\t},
";

fn mapping(key: &str, id: u32) -> String {
    let open = "\t\t\t{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": ";
    format!("\t\t\"{key}\": [\n{open}{id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n")
}

#[cfg(test)]
mod tests {
    use super::super::{json, spec::Spec};
    use super::*;

    fn read(owner: Owner, unified: bool) -> Spec {
        json::read(&config(owner, unified)).expect("the template is a configuration")
    }

    fn namespaces(spec: &Spec) -> Vec<&str> {
        let linux = spec.linux.as_ref().expect("linux");
        linux.namespaces.iter().map(|entry| entry.r#type.as_str()).collect()
    }

    #[test]
    fn roots_configuration_has_what_runcs_has() {
        let spec = read(Owner::Root, false);
        assert_eq!(namespaces(&spec), ["pid", "network", "ipc", "uts", "mount"]);
        assert_eq!(namespaces(&read(Owner::Root, true)), ["pid", "network", "ipc", "uts", "mount", "cgroup"]);
        assert_eq!(spec.process.expect("process").args, ["sh"]);
        assert_eq!(spec.mounts.len(), 7);
        assert_eq!(spec.linux.expect("linux").masked_paths.len(), 10);
    }

    #[test]
    fn a_users_configuration_asks_for_nothing_that_needs_root() {
        let spec = read(Owner::User { uid: 1000, gid: 100 }, true);
        assert_eq!(namespaces(&spec), ["user", "pid", "ipc", "uts", "mount", "cgroup"]);
        let linux = spec.linux.as_ref().expect("linux");
        assert_eq!((linux.uid_mappings[0].host_id, linux.gid_mappings[0].host_id), (1000, 100));
        assert_eq!(linux.resources, None);
        let mount = |at: &str| spec.mounts.iter().find(|mount| mount.destination == at).expect(at);
        assert_eq!(mount("/sys").source.as_deref(), Some("/sys"));
        assert_eq!(mount("/sys").options, ["rbind", "nosuid", "noexec", "nodev", "ro"]);
        assert!(!mount("/dev/pts").options.iter().any(|option| option.starts_with("gid=")));
    }
}
