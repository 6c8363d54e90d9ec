//! How alike two pictures are.

/// Sides of the window that SSIM looks through.
const WINDOW: usize = 11;
/// Standard deviation of its Gaussian weights.
const SIGMA: f64 = 1.5;
/// The largest value of a byte.
const PEAK: f64 = 255.0;

/// Peak signal-to-noise ratio in decibels, over all bytes of two pictures of one size; infinite when they are equal.
pub(crate) fn psnr(one: &[u8], other: &[u8]) -> f64 {
    let square = |(&a, &b): (&u8, &u8)| (f64::from(a) - f64::from(b)).powi(2);
    let squares: f64 = one.iter().zip(other).map(square).sum();
    10.0 * (PEAK * PEAK * one.len() as f64 / squares).log10()
}

/// Structural similarity of two pictures `[height, width, channels]`, from -1 to 1, as Wang, Bovik, Sheikh and Simoncelli
/// define it ("Image quality assessment", 2004): Gaussian windows of 11 x 11, K1 = 0.01, K2 = 0.03; the mean over all
/// windows that lie in the picture, and over the channels. `None` for pictures in which none does.
pub(crate) fn ssim(one: &[u8], other: &[u8], [width, height, channels]: [usize; 3]) -> Option<f64> {
    if width < WINDOW || height < WINDOW {
        return None;
    }
    const C1: f64 = (0.01 * PEAK) * (0.01 * PEAK);
    const C2: f64 = (0.03 * PEAK) * (0.03 * PEAK);
    let mut sum = 0.0;
    for channel in 0..channels {
        let plane = |pixels: &[u8]| -> Vec<f64> {
            pixels.iter().skip(channel).step_by(channels).map(|&byte| f64::from(byte)).collect()
        };
        let (x, y) = (plane(one), plane(other));
        let mean_of = |values: Vec<f64>| blurred(&values, width);
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        let (xx, yy, xy) = (product(&x, &x), product(&y, &y), product(&x, &y));
        let [x, y, xx, yy, xy] = [x, y, xx, yy, xy].map(mean_of);
        let windows = x.len() as f64;
        for index in 0..x.len() {
            let (ux, uy) = (x[index], y[index]);
            let (vx, vy, vxy) = (xx[index] - ux * ux, yy[index] - uy * uy, xy[index] - ux * uy);
            let alike = (2.0 * ux * uy + C1) * (2.0 * vxy + C2) / ((ux * ux + uy * uy + C1) * (vx + vy + C2));
            sum += alike / windows / channels as f64;
        }
    }
    Some(sum)
}

/// The weighted means of all windows that lie in a plane of this width.
fn blurred(plane: &[f64], width: usize) -> Vec<f64> {
    let weights: [f64; WINDOW] = std::array::from_fn(|index| {
        let x = index as f64 - (WINDOW / 2) as f64;
        (-0.5 * (x / SIGMA).powi(2)).exp()
    });
    let total: f64 = weights.iter().sum();
    let weights = weights.map(|weight| weight / total);
    let mean = |values: &mut dyn Iterator<Item = f64>| values.zip(weights).map(|(x, w)| x * w).sum::<f64>();
    let columns = width - WINDOW + 1;
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(WINDOW).map(|window| mean(&mut window.iter().copied())))
        .collect();
    (0..rows.len() + columns - WINDOW * columns)
        .map(|first| mean(&mut rows[first..].iter().step_by(columns).take(WINDOW).copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The values in the manifest are scikit-image's (tools/make_image_fixtures.py).
    #[test]
    fn both_are_those_of_scikit_image() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let read = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&read("images/manifest.json")).unwrap();
        let cases = manifest["similarity"].as_array().unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let [one, other] =
                ["one", "other"].map(|name| read(&format!("images/{}", case[name].as_str().unwrap())));
            let (found, expected) = (psnr(&one, &other), case["psnr"].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-9, "{case}: {found}");
            let (found, expected) =
                (ssim(&one, &other, [45, 37, 3]).unwrap(), case["ssim"].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-9, "{case}: {found}");
        }
    }

    #[test]
    fn extremes() {
        let picture: Vec<u8> = (0..11 * 11 * 3).map(|index| (index * 7 % 256) as u8).collect();
        assert_eq!(psnr(&picture, &picture), f64::INFINITY);
        assert!((ssim(&picture, &picture, [11, 11, 3]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&[0; 30 * 10 * 3], &[0; 30 * 10 * 3], [30, 10, 3]), None);
        // A fourth channel counts as much as each of the others: one that is quite other is a quarter of the mean.
        let with_alpha = |alpha: fn(usize) -> u8| -> Vec<u8> {
            let pixels = picture.as_chunks().0.iter().enumerate();
            pixels.flat_map(|(index, &[r, g, b]): (usize, &[u8; 3])| [r, g, b, alpha(index)]).collect()
        };
        let (one, other) = (with_alpha(|_| 0), with_alpha(|_| 255));
        let found = ssim(&one, &other, [11, 11, 4]).unwrap();
        assert!((found - 0.75).abs() < 1e-3, "{found}");
    }
}
