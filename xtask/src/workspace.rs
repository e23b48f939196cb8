//! The workspace as cargo describes it: its root, its members, and the executables it builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::{command, target};

/// A member of the workspace and the members it depends on, for whatever purpose (normal, build, dev).
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) depends_on: Vec<String>,
}

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the root of the workspace")
}

/// Where a verb keeps what it downloads and builds: `target/NAME` below the root, created if need be.
pub(crate) fn scratch(name: &str) -> Result<PathBuf> {
    let dir = root().join("target").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// `cargo`, in the root of the workspace, for the chosen target.
pub(crate) fn cargo() -> Command {
    in_workspace(Command::new("cargo"))
}

/// A command that is or starts cargo, as [`cargo`].
pub(crate) fn in_workspace(mut command: Command) -> Command {
    command.current_dir(root()).envs(target::chosen().map(|target| (target::VARIABLE, target)));
    command
}

/// The members from `cargo metadata`.
pub(crate) fn members() -> Result<Vec<Member>> {
    let text = command::capture(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    parse_members(&text).context("read the output of cargo metadata")
}

/// Builds packages with one binary each in the given profile; their paths, in the order asked for.
pub(crate) fn build_each<const N: usize>(packages: [&str; N], profile: &str) -> Result<[PathBuf; N]> {
    let mut cargo = cargo();
    cargo.args(["build", "--bins", "--profile", profile]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let built = executables(&mut cargo)?;
    let path = |name: &str| built.iter().find(|(built, _)| built == name).map(|(_, path)| path.clone());
    let found: Vec<PathBuf> = packages.iter().filter_map(|name| path(name)).collect();
    found.try_into().map_err(|found| anyhow!("of {packages:?}, cargo built only {found:?}"))
}

/// Builds a test program without running it.
pub(crate) fn build_test(package: &str, test: &str, profile: &str) -> Result<PathBuf> {
    let mut cargo = cargo();
    cargo.args(["test", "--no-run", "--profile", profile, "--package", package, "--test", test]);
    let built = executables(&mut cargo)?;
    let found = built.into_iter().find(|(name, _)| name == test);
    found.map(|(_, path)| path).with_context(|| format!("cargo built no test program {test}"))
}

/// Name and path of the executables that this run of cargo announces.
fn executables(cargo: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    cargo.arg("--message-format=json-render-diagnostics");
    let text = command::listen(cargo)?;
    text.lines().map(executable).filter_map(Result::transpose).collect()
}

fn parse_members(metadata: &str) -> Result<Vec<Member>> {
    let metadata: Value = serde_json::from_str(metadata)?;
    let packages = metadata["packages"].as_array().context("no array \"packages\"")?;
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Result<Member> {
    let name = package["name"].as_str().context("a package without a name")?.to_owned();
    let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
    // Only dependencies within the workspace have a path: everything else comes from a registry.
    let inside = dependencies.iter().filter(|dependency| dependency["path"].is_string());
    let depends_on = inside.filter_map(|dependency| dependency["name"].as_str()).map(str::to_owned).collect();
    Ok(Member { name, depends_on })
}

/// The binary that one message of cargo announces, if it does.
fn executable(message: &str) -> Result<Option<(String, PathBuf)>> {
    let message: Value = serde_json::from_str(message).context("message of cargo build")?;
    let path = message["executable"].as_str().map(PathBuf::from);
    let name = message["target"]["name"].as_str().map(str::to_owned);
    Ok(name.zip(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dependencies_with_a_path_are_arrows() {
        let metadata = r#"{"packages": [{"name": "a", "dependencies": [
            {"name": "libc", "source": "registry"}, {"name": "b", "path": "/b", "kind": "dev"}]}]}"#;
        let members = parse_members(metadata).unwrap();
        assert_eq!(
            (members[0].name.as_str(), members[0].depends_on.as_slice()),
            ("a", &["b".to_owned()][..])
        );
    }

    #[test]
    fn an_executable_is_told_from_other_messages() {
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"skiff"},"executable":"/t/skiff"}"#;
        assert_eq!(executable(binary).unwrap(), Some(("skiff".to_owned(), "/t/skiff".into())));
        assert_eq!(executable(r#"{"target":{"name":"libc"},"executable":null}"#).unwrap(), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#).unwrap(), None);
    }
}
