//! What a server's host has in it.

use serde::Deserialize;

use crate::{Client, Result};

/// Of `/1.0/resources` what is needed.
#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    gpu: Cards,
}

#[derive(Default, Deserialize)]
struct Cards {
    #[serde(default)]
    cards: Vec<Card>,
}

#[derive(Deserialize)]
struct Card {
    #[serde(default)]
    pci_address: String,
    #[serde(default)]
    drm: Option<Drm>,
}

#[derive(Deserialize)]
struct Drm {
    /// Name of the node that programs compute and draw by; a screen's controller alone has none.
    #[serde(default)]
    render_name: String,
}

impl Client {
    /// PCI addresses of the host's graphics processors that programs can use, in their order. The server looks at all of its
    /// host for it: some 50 ms.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn graphics(&self) -> Result<Vec<String>> {
        let found: Option<Resources> = self.door().get("/1.0/resources", self.limits().answer_bytes).await?;
        Ok(found.map(|found| found.gpu.addresses()).unwrap_or_default())
    }
}

impl Cards {
    fn addresses(self) -> Vec<String> {
        let can_render = |card: &Card| card.drm.as_ref().is_some_and(|drm| !drm.render_name.is_empty());
        let usable = self.cards.into_iter().filter(|card| can_render(card) && !card.pci_address.is_empty());
        let mut addresses: Vec<String> = usable.map(|card| card.pci_address).collect();
        addresses.sort();
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_screens_is_no_processor() {
        let text = r#"{"cpu": {}, "gpu": {"total": 4, "cards": [
            {"pci_address": "0000:02:00.0", "driver": "nvidia", "drm": {"id": 1, "render_name": "renderD129"}},
            {"pci_address": "0000:01:00.0", "driver": "nvidia", "drm": {"id": 0, "render_name": "renderD128"}},
            {"pci_address": "0000:05:00.0", "driver": "ast", "drm": {"id": 2, "render_name": ""}},
            {"pci_address": "0000:06:00.0", "driver": ""}]}}"#;
        let found: Resources = serde_json::from_str(text).expect("JSON");
        assert_eq!(found.gpu.addresses(), ["0000:01:00.0", "0000:02:00.0"]);
        let none: Resources = serde_json::from_str("{}").expect("JSON");
        assert!(none.gpu.addresses().is_empty());
    }
}
