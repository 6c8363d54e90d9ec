// Which tensor fits which model.

/**
 * How a model would take a tensor: { batch, batched, frames, height, width, packed }, sizes in pixels; or { problem }.
 * A packed tensor has no height and width of its own; those here are the square with as many tokens, if there is one.
 * Of a model that is not loaded nothing is known, and the server will say whether it fits.
 */
export function arrange({ shape, layout }, model) {
  const { latent_channels: channels, spatial_factor: factor, temporal_factor: temporal } = model;
  if (shape.some((axis) => axis === 0)) return { problem: "it is empty" };
  const isOneItem = Boolean(layout?.isOneItem);
  if (!channels) {
    const packed = !isOneItem && shape.length === 3;
    return { batch: isOneItem ? 1 : shape[0], batched: !isOneItem, frames: 1, packed };
  }
  const expected = temporal
    ? `[B, ${channels}, f, h, w]`
    : `[B, ${channels}, h, w] or packed [B, tokens, ${4 * channels}]`;
  const problem = { problem: `${model.name} takes ${expected}` };
  // What one item has: its channels, frames if any, height and width.
  const axes = temporal ? 4 : 3;
  const batches = isOneItem ? [false] : [true, false];
  for (const batched of batches) {
    const item = batched ? shape.slice(1) : shape;
    // A picture may be a video of one frame: [B, C, 1, h, w] or [C, 1, h, w].
    const hasFrame = !temporal && item.length === axes + 1 && item[1] === 1;
    if ((item.length !== axes && !hasFrame) || item[0] !== channels) continue;
    const [height, width] = item.slice(-2).map((side) => side * factor);
    const frames = temporal ? (item[1] - 1) * temporal + 1 : 1;
    return { batch: batched ? shape[0] : 1, batched, frames, height, width, packed: false };
  }
  if (!temporal && !isOneItem && shape.length === 3 && shape[2] === 4 * channels) {
    const side = Math.sqrt(shape[1]) * 2 * factor;
    const square = Number.isInteger(side) ? side : undefined;
    return { batch: shape[0], batched: true, frames: 1, height: square, width: square, packed: true };
  }
  return problem;
}
