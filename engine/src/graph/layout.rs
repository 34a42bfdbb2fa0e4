//! Where boxes and arrows go: layers from top to bottom (Sugiyama's method, the small version).
//!
//! Longest path gives the layers; an arrow over several layers gets a point in each; some sweeps by the middle of the
//! neighbours put each layer in an order with few crossings and then in its place.

/// Where everything is, in pixels.
pub(super) struct Layout {
    /// The upper left corner of each box.
    pub(super) boxes: Vec<(f64, f64)>,
    /// The points of each arrow, first and last on the boxes.
    pub(super) arrows: Vec<Vec<(f64, f64)>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

const GAP_X: f64 = 28.0;
const GAP_Y: f64 = 44.0;
const MARGIN: f64 = 16.0;
const SWEEPS: usize = 12;

/// A box, or a point where an arrow crosses a layer.
struct Item {
    layer: usize,
    width: f64,
    height: f64,
    x: f64,
    up: Vec<usize>,
    down: Vec<usize>,
}

/// Returns the layout of boxes with these sizes; every arrow must lead from an earlier to a later layer.
pub(super) fn layout(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Layout {
    let layers = layers(sizes.len(), edges);
    let mut items: Vec<Item> = sizes
        .iter()
        .zip(&layers)
        .map(|((width, height), layer)| Item {
            layer: *layer,
            width: *width,
            height: *height,
            x: 0.0,
            up: Vec::new(),
            down: Vec::new(),
        })
        .collect();
    let mut chains = Vec::with_capacity(edges.len());
    for (from, to) in edges {
        let mut chain = vec![*from];
        for layer in layers[*from] + 1..layers[*to] {
            items.push(Item { layer, width: 8.0, height: 0.0, x: 0.0, up: Vec::new(), down: Vec::new() });
            chain.push(items.len() - 1);
        }
        chain.push(*to);
        for pair in chain.windows(2) {
            items[pair[0]].down.push(pair[1]);
            items[pair[1]].up.push(pair[0]);
        }
        chains.push(chain);
    }
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); layers.iter().max().map_or(0, |last| last + 1)];
    for (at, item) in items.iter().enumerate() {
        rows[item.layer].push(at);
    }
    place(&mut items, &mut rows);
    finish(sizes, &items, &rows, &chains)
}

/// Returns the layer of each box: one more than the deepest box before it. Boxes of a circle stay in the first layer.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layers = vec![0; count];
    let mut waiting = vec![0_usize; count];
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (from, to) in edges {
        waiting[*to] += 1;
        after[*from].push(*to);
    }
    let mut free: Vec<usize> = (0..count).filter(|at| waiting[*at] == 0).collect();
    while let Some(at) = free.pop() {
        for &next in &after[at] {
            layers[next] = layers[next].max(layers[at] + 1);
            waiting[next] -= 1;
            if waiting[next] == 0 {
                free.push(next);
            }
        }
    }
    layers
}

fn place(items: &mut [Item], rows: &mut [Vec<usize>]) {
    for row in rows.iter() {
        pack(items, row);
    }
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let order: Vec<usize> = if down { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for layer in order {
            let mut wanted: Vec<(f64, usize)> = rows[layer]
                .iter()
                .map(|&at| {
                    let neighbours = if down { &items[at].up } else { &items[at].down };
                    (middle(neighbours, items).unwrap_or(items[at].x), at)
                })
                .collect();
            wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[layer] = wanted.iter().map(|(_, at)| *at).collect();
            spread(items, &wanted);
        }
    }
}

/// Puts the items of a row side by side around 0.
fn pack(items: &mut [Item], row: &[usize]) {
    let total: f64 = row.iter().map(|at| items[*at].width + GAP_X).sum::<f64>() - GAP_X;
    let mut x = -total / 2.0;
    for &at in row {
        items[at].x = x + items[at].width / 2.0;
        x += items[at].width + GAP_X;
    }
}

fn middle(neighbours: &[usize], items: &[Item]) -> Option<f64> {
    let mut xs: Vec<f64> = neighbours.iter().map(|at| items[*at].x).collect();
    xs.sort_by(f64::total_cmp);
    match xs.len() {
        0 => None,
        len if len % 2 == 1 => Some(xs[len / 2]),
        len => Some(f64::midpoint(xs[len / 2 - 1], xs[len / 2])),
    }
}

/// Puts each item as near to where it wants to be as its neighbours allow, the whole row balanced.
fn spread(items: &mut [Item], wanted: &[(f64, usize)]) {
    let mut blocks: Vec<(f64, f64, Vec<usize>)> = Vec::new();
    for &(x, at) in wanted {
        let width = items[at].width + GAP_X;
        let mut block = (x - width / 2.0, width, vec![at]);
        // Blocks that overlap become one, around the mean of what they wanted.
        while let Some(last) = blocks.last() {
            if last.0 + last.1 <= block.0 {
                break;
            }
            let Some((start, width, mut members)) = blocks.pop() else { break };
            #[expect(clippy::cast_precision_loss, reason = "counts of boxes are small")]
            let (left, right) = (members.len() as f64, block.2.len() as f64);
            let start = (start * left + (block.0 - width) * right) / (left + right);
            members.append(&mut block.2);
            block = (start, width + block.1, members);
        }
        blocks.push(block);
    }
    for (start, _, members) in blocks {
        let mut x = start;
        for at in members {
            let width = items[at].width + GAP_X;
            items[at].x = x + width / 2.0;
            x += width;
        }
    }
}

fn finish(sizes: &[(f64, f64)], items: &[Item], rows: &[Vec<usize>], chains: &[Vec<usize>]) -> Layout {
    let left = items.iter().map(|item| item.x - item.width / 2.0).fold(f64::INFINITY, f64::min);
    let right = items.iter().map(|item| item.x + item.width / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let mut tops = Vec::with_capacity(rows.len());
    let mut y = MARGIN;
    let row_height = |row: &Vec<usize>| row.iter().map(|at| items[*at].height).fold(0.0, f64::max);
    for row in rows {
        tops.push(y);
        y += row_height(row) + GAP_Y;
    }
    let x = |at: usize| items[at].x - left + MARGIN;
    let boxes = (0..sizes.len()).map(|at| (x(at) - items[at].width / 2.0, tops[items[at].layer])).collect();
    let arrow = |chain: &Vec<usize>| {
        let last = chain.len() - 1;
        let mut points = Vec::new();
        for (index, &at) in chain.iter().enumerate() {
            let (top, height) = (tops[items[at].layer], row_height(&rows[items[at].layer]));
            match index {
                0 => points.push((x(at), top + items[at].height)),
                _ if index == last => points.push((x(at), top)),
                _ => points.extend([(x(at), top), (x(at), top + height)]),
            }
        }
        points
    };
    let arrows = chains.iter().map(arrow).collect();
    let width = if items.is_empty() { 0.0 } else { right - left } + 2.0 * MARGIN;
    Layout { boxes, arrows, width, height: (y - GAP_Y + MARGIN).max(2.0 * MARGIN) }
}
