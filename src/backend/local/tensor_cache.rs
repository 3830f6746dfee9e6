//! Keys and values on a device.

use candle_core::Tensor;

use super::forward::Seen;

/// Memory is taken by so many tokens at a time.
pub const GRAIN: usize = 64;

/// Heads of keys, and of values, in one layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// So many.
    pub heads: usize,
    /// Elements of one.
    pub head: usize,
}

/// Keys and values of some tokens, by the layer: heads of keys, then of values, `[2 * heads, room, head]`. They are written
/// where they lie, so a cache is never copied by handing on its tensors.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<Option<Tensor>>,
    shape: Shape,
    /// Tokens whose keys and values are here in every layer.
    tokens: usize,
}

impl Cache {
    /// Of no tokens, in a model of so many layers.
    pub fn new(layers: usize, shape: Shape) -> Cache {
        Cache { layers: vec![None; layers], shape, tokens: 0 }
    }

    /// Adds tokens' keys and values, `[tokens, 2 * heads, head]`, to one layer.
    pub fn extend(&mut self, layer: usize, fresh: &Tensor) -> candle_core::Result<()> {
        let Shape { heads, head } = self.shape;
        let count = fresh.dim(0)?;
        let fresh = match count {
            1 => fresh.reshape((2 * heads, 1, head))?,
            _ => fresh.transpose(0, 1)?.contiguous()?,
        };
        let needed = self.tokens + count;
        let held = match self.layers[layer].take() {
            Some(held) if held.dim(1)? >= needed => held,
            small => {
                let shape = (2 * heads, needed.next_multiple_of(GRAIN), head);
                let large = Tensor::zeros(shape, fresh.dtype(), fresh.device())?;
                if let Some(small) = small {
                    large.slice_set(&small, 1, 0)?;
                }
                large
            }
        };
        held.slice_set(&fresh, 1, self.tokens)?;
        self.layers[layer] = Some(held);
        Ok(())
    }

    /// So many tokens were added to every layer.
    pub fn grown(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// Keys and values of the tokens `from..to` of a layer, `[heads, to - from, head]` each.
    pub fn span(&self, layer: usize, from: usize, to: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let Some(held) = &self.layers[layer] else { candle_core::bail!("a cache of no tokens was looked at") };
        let held = held.narrow(1, from, to - from)?;
        let heads = self.shape.heads;
        Ok((held.narrow(0, 0, heads)?, held.narrow(0, heads, heads)?))
    }
}

impl Seen for Cache {
    fn tokens(&self) -> usize {
        self.tokens
    }
}
