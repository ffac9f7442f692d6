//! Whether what is small and what is large stand in each other's way.

/// Heavy turns that are looked at together.
const SPAN_COUNT: u32 = 32;

/// So many light turns among them are something that waits: a message and its answer.
const LIGHT_COUNT: u32 = 2;

/// Turns of a thread, by how much they carry. Two spans in a row with light turns between the heavy ones count as a
/// mix; streams that begin have a light turn or two, and then only heavy ones.
#[derive(Debug, Default)]
pub(super) struct Mix {
    heavy: u32,
    light: u32,
    /// The span before had light turns.
    began: bool,
    mixed: bool,
}

impl Mix {
    /// A turn that carried much.
    pub(super) fn heavy(&mut self) {
        self.heavy += 1;
        if self.heavy == SPAN_COUNT {
            let has_light = self.light >= LIGHT_COUNT;
            *self = Mix { heavy: 0, light: 0, began: has_light, mixed: has_light && self.began };
        }
    }

    /// A turn that carried little, for somebody who waits for it.
    pub(super) fn light(&mut self) {
        self.light = self.light.saturating_add(1);
    }

    /// Whether there were both of late.
    pub(super) const fn is_mixed(&self) -> bool {
        self.mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(mix: &mut Mix, light: u32) -> bool {
        (0..light).for_each(|_| mix.light());
        (0..SPAN_COUNT).for_each(|_| mix.heavy());
        mix.is_mixed()
    }

    /// Fails when: what came before the large streams counts as something beside them.
    #[test]
    fn a_mix_is_what_lasts() {
        let mut mix = Mix::default();
        assert!(!span(&mut mix, 1000));
        assert!(!span(&mut mix, 0));
        assert!(!span(&mut mix, 2));
        assert!(span(&mut mix, 2));
        assert!(!span(&mut mix, 1));
    }
}
