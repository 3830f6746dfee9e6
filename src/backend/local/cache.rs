//! Keys and values of the tokens that a model has seen.

use farthing_kernels::Span;

use super::forward::Seen;

/// Keys and values of some tokens, by the layer. They grow by whole tokens.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    width: usize,
    /// Tokens whose keys and values are here in every layer.
    tokens: usize,
}

impl Cache {
    /// Of no tokens, in a model of so many layers whose keys have so many elements.
    pub fn new(layers: usize, width: usize) -> Cache {
        Cache { layers: vec![(Vec::new(), Vec::new()); layers], width, tokens: 0 }
    }

    /// Adds tokens' keys and values to one layer.
    pub fn extend(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        if let Some((all_keys, all_values)) = self.layers.get_mut(layer) {
            all_keys.extend_from_slice(keys);
            all_values.extend_from_slice(values);
        }
    }

    /// So many tokens were added to every layer.
    pub fn grown(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// The tokens `from..to` of a layer.
    pub fn span(&self, layer: usize, from: usize, to: usize) -> Span<'_> {
        let range = from.min(to) * self.width..to * self.width;
        let (keys, values) = &self.layers[layer];
        Span { keys: &keys[range.clone()], values: &values[range] }
    }
}

impl Seen for Cache {
    fn tokens(&self) -> usize {
        self.tokens
    }
}
