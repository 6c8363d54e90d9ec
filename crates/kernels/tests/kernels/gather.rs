//! Values copied to other positions, against the same copies one by one.

use kernels::{Axis, Clip, Context, Features, Gather, Storage, Upsampling, Watched};
use reference::Image;
use remote_vae_kernels as kernels;
use remote_vae_kernels::reference;

use crate::common::{check, check_stats, contexts, values};

/// `[C, F, H, W]`, of two clips that differ in the first axis or the last.
type Shape = [usize; 4];

struct Case {
    shapes: &'static [Shape],
    gather: fn(&[Shape]) -> Gather,
    /// Which value of which part stands at a position of the output.
    from: fn(&[Shape], Shape) -> (usize, Shape),
    shape: Shape,
}

const CASES: &[Case] = &[
    Case {
        shapes: &[[20, 2, 3, 100]],
        gather: |shapes| Gather::whole(shapes[0]),
        from: |_, at| (0, at),
        shape: [20, 2, 3, 100],
    },
    Case {
        shapes: &[[24, 2, 3, 5], [7, 2, 3, 5]],
        gather: |shapes| Gather::concatenated(shapes, Axis::Channel),
        from: |_, [c, f, y, x]| if c < 24 { (0, [c, f, y, x]) } else { (1, [c - 24, f, y, x]) },
        shape: [31, 2, 3, 5],
    },
    Case {
        shapes: &[[16, 1, 3, 5], [16, 2, 3, 5]],
        gather: |shapes| Gather::concatenated(shapes, Axis::Time),
        from: |_, [c, f, y, x]| if f < 1 { (0, [c, f, y, x]) } else { (1, [c, f - 1, y, x]) },
        shape: [16, 3, 3, 5],
    },
    Case {
        shapes: &[[3, 1, 2, 5], [3, 1, 1, 5]],
        gather: |shapes| Gather::concatenated(shapes, Axis::Height),
        from: |_, [c, f, y, x]| if y < 2 { (0, [c, f, y, x]) } else { (1, [c, f, y - 2, x]) },
        shape: [3, 1, 3, 5],
    },
    // A border between parts in the middle of a task's pixels, and one between tasks.
    Case {
        shapes: &[[16, 1, 2, 90], [16, 1, 2, 40]],
        gather: |shapes| Gather::concatenated(shapes, Axis::Width).sliced(Axis::Width, 2..125),
        from: |_, [c, f, y, x]| if x < 88 { (0, [c, f, y, x + 2]) } else { (1, [c, f, y, x - 88]) },
        shape: [16, 1, 2, 123],
    },
    Case {
        shapes: &[[40, 3, 4, 5]],
        gather: |shapes| Gather::whole(shapes[0]).sliced(Axis::Channel, 9..35).sliced(Axis::Time, 1..2),
        from: |_, [c, f, y, x]| (0, [c + 9, f + 1, y, x]),
        shape: [26, 1, 4, 5],
    },
    Case {
        shapes: &[[5, 2, 4, 3]],
        gather: |shapes| {
            Gather::whole(shapes[0]).repeated(Axis::Channel, 3, true).repeated(Axis::Height, 2, false)
        },
        from: |_, [c, f, y, x]| (0, [c / 3, f, y % 4, x]),
        shape: [15, 2, 8, 3],
    },
    Case {
        shapes: &[[18, 3, 2, 60]],
        gather: |shapes| Gather::whole(shapes[0]).upsampled(Upsampling { time: true, space: true }),
        from: |_, [c, f, y, x]| (0, [c, f.div_ceil(2), y / 2, x / 2]),
        shape: [18, 5, 4, 120],
    },
];

fn at(shape: Shape, [c, f, y, x]: Shape) -> usize {
    ((c * shape[1] + f) * shape[2] + y) * shape[3] + x
}

fn bound(context: &Context) -> f64 {
    match context.storage {
        Storage::F32 => f64::MIN_POSITIVE,
        Storage::F16 => 6e-4,
    }
}

#[test]
fn values_are_copied_to_their_positions() {
    for (number, case) in CASES.iter().enumerate() {
        let Case { shapes, shape, .. } = *case;
        let data: Vec<_> = (0..).zip(shapes).map(|(i, s)| values(s.iter().product(), i)).collect();
        let mut want = Vec::new();
        for index in 0..shape.iter().product() {
            let [x, rest] = [index % shape[3], index / shape[3]];
            let [y, rest] = [rest % shape[2], rest / shape[2]];
            let (part, from) = (case.from)(shapes, [rest / shape[1], rest % shape[1], y, x]);
            want.push(data[part][at(shapes[part], from)]);
        }
        let gather = (case.gather)(shapes);
        let clip = Image::new([1, shape[0], shape[1] * shape[2], shape[3]], &want);
        for (name, context) in contexts() {
            let name = format!("case {number}, {name}");
            let parts: Vec<_> = shapes.iter().zip(&data).collect();
            let clips: Vec<_> = parts
                .iter()
                .map(|(shape, data)| Clip::from_cfhw(&context, **shape, data).expect("memory"))
                .collect();
            let clips: Vec<_> = clips.iter().collect();
            let y = gather.clip(&context, &clips, &mut Watched::unwatched()).expect("memory");
            assert_eq!(y.shape(), shape, "{name}");
            check(&name, &y.to_cfhw(), &clip, 1.0, bound(&context));
            crate::causal::check_stats(&name, &y, &clip, 1e-3);
            if shape[1] == 1 && shapes.iter().all(|shape| shape[1] == 1) {
                // The same picture twice.
                let pictures: Vec<_> = parts
                    .iter()
                    .map(|([c, _, h, w], data)| {
                        let x = Features::from_nchw(&context.arena, [2, *c, *h, *w], &data.repeat(2));
                        x.expect("memory").stored(&context).expect("memory")
                    })
                    .collect();
                let pictures: Vec<_> = pictures.iter().collect();
                let y = gather.pictures(&context, &pictures, &mut Watched::unwatched()).expect("memory");
                let want = Image::new([2, shape[0], shape[2], shape[3]], &want.repeat(2));
                check(&name, &y.to_nchw(), &want, 1.0, bound(&context));
                check_stats(&name, &y, &want, 1e-3);
            }
        }
    }
}

#[test]
#[should_panic(expected = "values that no part has")]
fn values_that_no_part_has_are_refused() {
    let context = Context::new(1).expect("threads");
    let clip =
        |shape: Shape| Clip::from_cfhw(&context, shape, &values(shape.iter().product(), 1)).expect("memory");
    let gather = Gather::concatenated(&[[32, 1, 2, 2], [32, 1, 2, 2]], Axis::Time);
    // The second has fewer channels than were promised.
    let parts = [clip([32, 1, 2, 2]), clip([16, 1, 2, 2])];
    let _ = gather.clip(&context, &[&parts[0], &parts[1]], &mut Watched::unwatched());
}
