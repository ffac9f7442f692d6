//! A registry with images, and a project whose files name them.

use portway_testkit::{Bed, OciImage, Registry, Server};

use crate::scene::{Said, Scene};

/// A project whose files name images of a registry. Dropped in this order: the project, then what the server has fetched.
pub(crate) struct Shop {
    pub(crate) scene: Scene,
    pub(crate) registry: Fetched,
}

/// A registry. What the server fetches from it goes with it.
pub(crate) struct Fetched {
    registry: Registry,
    bed: &'static Bed,
}

impl Shop {
    /// A project called after `name` and a registry with nothing in it; `None` where no server can be had.
    pub(crate) fn open(name: &str) -> Option<Shop> {
        let scene = Scene::on(Server::Incus7, name)?;
        let registry = Fetched::of(&scene);
        Some(Shop { scene, registry })
    }

    /// Writes the file: `REGISTRY` in it becomes the registry's name.
    pub(crate) fn write(&self, text: &str) {
        self.scene.write(&text.replace("REGISTRY", &self.registry.name()));
    }

    /// What a script in an instance prints.
    pub(crate) fn said(&self, instance: &str, script: &str) -> String {
        let said = self.scene.exec(instance, script);
        assert!(said.status.success(), "{script}: {said:?}");
        Said::of(said).out
    }
}

impl Fetched {
    /// One with nothing in it, which the server and whoever works in the project's folder trust.
    pub(crate) fn of(scene: &Scene) -> Fetched {
        let registry = scene.bed.registry().unwrap();
        registry.trusted_by(scene.home()).unwrap();
        Fetched { registry, bed: scene.bed }
    }

    /// What names of its images begin with, without the slash.
    pub(crate) fn name(&self) -> String {
        self.registry.authority()
    }

    pub(crate) fn push(&self, name: &str, image: &OciImage<'_>) {
        self.registry.push(self.bed, name, image).unwrap();
    }

    /// The same with more in what it says of itself.
    pub(crate) fn push_with(&self, name: &str, image: &OciImage<'_>, more: &serde_json::Value) {
        self.registry.push_with(self.bed, name, image, more).unwrap();
    }

    /// Its end.
    pub(crate) fn close(&mut self) {
        self.registry.close().unwrap();
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let _forgotten = self.registry.forget(self.bed);
    }
}
