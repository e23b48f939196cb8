//! The configuration that a container was made with.

use skiff_runtime::Error;
use skiff_runtime::container::Container;
use skiff_runtime::hooks;
use skiff_runtime::oci::spec::{Spec, State, Status};
use skiff_runtime::oci::{self, Bundle};
use skiff_runtime::plan::{Hook, Hooks};
use skiff_runtime::rdt::Group;

/// Reads it from the container's own directory.
pub(crate) fn bundle(container: &Container) -> Result<Bundle, Error> {
    let spec: Spec = oci::read_file(&container.config())?;
    Ok(Bundle { path: container.record().bundle.clone(), spec })
}

/// Its hooks.
pub(crate) fn hooks(container: &Container) -> Result<Hooks, Error> {
    oci::hooks(&bundle(container)?, &container.record().id)
}

/// Its resctrl group, if it is in one.
pub(crate) fn rdt_group(container: &Container) -> Option<Group> {
    if !container.record().has_rdt {
        return None;
    }
    oci::rdt_group(&bundle(container).ok()?.spec, &container.record().id)
}

/// The hooks to run once the container is deleted, and what they are told. It is too late then for anything to fail.
pub(crate) fn poststop(container: &Container) -> Option<(Vec<Hook>, State)> {
    if !container.record().has_poststop {
        return None;
    }
    match hooks(container) {
        Ok(hooks) => {
            let state = hooks::state(&hooks.subject, Status::Stopped, None);
            Some((hooks.poststop, state))
        }
        Err(error) => {
            tracing::warn!("no poststop hooks: {error}");
            None
        }
    }
}
