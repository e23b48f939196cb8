//! A pod that has the policy, to be merged into one's own.

use super::form::comment;
use super::policy::{Policy, Root};
use super::quote::yaml;

/// Where the kubelet looks for filters, and what this one is to be called there.
const PROFILE: &str = "skiff/seccomp.json";

/// A whole manifest: names and image are placeholders.
pub(super) fn pod(policy: &Policy) -> String {
    let mut text = format!(
        "# Put seccomp.json on each node as /var/lib/kubelet/seccomp/{PROFILE}, and what follows into your pod.\n"
    );
    for note in &policy.needs.notes {
        text += &format!("# {}\n", comment(note));
    }
    for directory in policy.writable.iter().filter(|directory| directory.filled) {
        text += &format!(
            "# {}: the image has files there, and an emptyDir has none: copy them by an init container.\n",
            comment(&directory.path)
        );
    }
    text += "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app\nspec:\n  containers:\n    - name: app\n      image: IMAGE\n";
    text += &security(policy);
    text += &resources(policy);
    if !policy.writable.is_empty() {
        text += "      volumeMounts:\n";
        for (number, directory) in policy.writable.iter().enumerate() {
            text += &format!(
                "        - name: writable-{number}\n          mountPath: {}\n",
                yaml(&directory.path)
            );
        }
        text += "  volumes:\n";
        for number in 0..policy.writable.len() {
            text += &format!("    - name: writable-{number}\n      emptyDir: {{}}\n");
        }
    }
    text
}

fn security(policy: &Policy) -> String {
    let mut text = String::from("      securityContext:\n        allowPrivilegeEscalation: false\n");
    text += "        privileged: false\n";
    text += &format!("        readOnlyRootFilesystem: {}\n", policy.root == Root::ReadOnly);
    if let Some((uid, gid)) = policy.user {
        text += &format!("        runAsNonRoot: {}\n", uid != 0);
        text += &format!("        runAsUser: {uid}\n        runAsGroup: {gid}\n");
    }
    text += "        capabilities:\n          drop: [\"ALL\"]\n";
    if !policy.capabilities.is_empty() {
        let names: Vec<String> = policy.capabilities.iter().map(|name| yaml(name)).collect();
        text += &format!("          add: [{}]\n", names.join(", "));
    }
    text += "        seccompProfile:\n          type: Localhost\n";
    text += &format!("          localhostProfile: {PROFILE}\n");
    text
}

/// Limits of processes and open files are the kubelet's and the runtime's, not the pod's.
fn resources(policy: &Policy) -> String {
    let limits = &policy.limits;
    if limits.memory_bytes.is_none() && limits.cpu_millis.is_none() {
        return String::new();
    }
    let mut text = String::from("      resources:\n        requests:\n");
    if let Some(millis) = limits.cpu_millis {
        text += &format!("          cpu: \"{millis}m\"\n");
    }
    if let Some(bytes) = limits.memory_bytes {
        text += &format!("          memory: \"{bytes}\"\n        limits:\n          memory: \"{bytes}\"\n");
    }
    text
}
