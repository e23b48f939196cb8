//! The caller's store, as commands see it.

use serde_json::Value;
use skiff_store::{Error, ImageName, ImageRef, Store, Summary};

use super::documents::{Known, created_ns};
use crate::client::refused;
use crate::failure::Failure;
use crate::roots::Roots;

/// The store, and where the containers are that use it.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) store: Store,
    pub(super) roots: Roots,
}

impl Local {
    pub(super) fn open() -> Result<Self, Failure> {
        let roots = Roots::find().map_err(refused)?;
        let state = roots.state.clone();
        let store = Store::open(&roots.state).map_err(failed)?.with_users(move || skiff_engine::uses(&state));
        Ok(Self { store, roots })
    }

    /// All images, the newest first.
    pub(super) fn all(&self) -> Result<Vec<Known>, Failure> {
        let all = self.store.images().map_err(failed)?;
        let mut all = all.into_iter().map(|summary| self.known(summary)).collect::<Result<Vec<_>, _>>()?;
        all.sort_by_key(|known| std::cmp::Reverse(created_ns(&known.configuration["created"])));
        Ok(all)
    }

    /// What `text` means: a name, an id, or the beginning of one.
    pub(super) fn find(&self, text: &str) -> Result<Known, Failure> {
        let found = self.store.find(text).map_err(failed)?;
        self.known(self.store.image(found.id).map_err(failed)?)
    }

    pub(super) fn known(&self, summary: Summary) -> Result<Known, Failure> {
        let documents = self.store.documents(summary.id).map_err(failed)?;
        let configuration: Value = serde_json::from_slice(&documents.configuration)
            .map_err(|error| refused(Failure::engine(format!("configuration {}: {error}", summary.id))))?;
        let image = self.store.resolve(&ImageRef::Id(summary.id)).unwrap_or_default();
        let directories = image.layers.iter().map(|layer| layer.display().to_string()).collect();
        Ok(Known {
            id: summary.id.to_string(),
            tags: summary.names.iter().map(ImageName::familiar).collect(),
            digests: summary.digests.iter().map(ImageName::familiar).collect(),
            configuration,
            layers: summary.layers.iter().map(|it| self.store.layer_size(*it).unwrap_or(0)).collect(),
            directories,
            tagged_s: summary.since,
        })
    }
}

/// A failure of the store's; what the command exits with is 1.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(super) fn failed(error: Error) -> Failure {
    refused(Failure::engine(error.to_string()))
}
