//! The configuration that a container was made with.

use skiff_runtime::Error;
use skiff_runtime::container::Container;
use skiff_runtime::oci::spec::Spec;
use skiff_runtime::oci::{self, Bundle};
use skiff_runtime::plan::Hooks;

use crate::notify;

/// Reads it from the container's own directory.
pub(crate) fn bundle(container: &Container) -> Result<Bundle, Error> {
    let mut spec: Spec = oci::read_file(&container.config())?;
    if container.record().has_notify {
        // Put in when it was made.
        spec.mounts.push(notify::mount(container.directory())?);
    }
    Ok(Bundle { path: container.record().bundle.clone(), spec })
}

/// Its hooks.
pub(crate) fn hooks(container: &Container) -> Result<Hooks, Error> {
    oci::hooks(&bundle(container)?, &container.record().id)
}

/// Its hooks, if there are some to run once it is deleted. It is too late then for anything to fail.
pub(crate) fn late_hooks(container: &Container) -> Option<Hooks> {
    if !container.record().has_poststop {
        return None;
    }
    hooks(container).map_err(|error| tracing::warn!("no poststop hooks: {error}")).ok()
}
