//! Paths between latents.

use std::f64::consts::PI;

/// How to interpolate between two latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blend {
    /// Along the straight line.
    Linear,
    /// Along the great circle through both directions, with interpolated length (slerp; Shoemake 1985, for latents White
    /// 2016, <https://arxiv.org/abs/1609.04468>, §2). In many Gaussian dimensions the middle of a straight line is nearer
    /// to 0 than the latent of any image.
    Spherical,
}

impl Blend {
    /// The latent at the share `t` of the way from `a` to `b`.
    fn at(self, a: &[f64], b: &[f64], t: f64) -> Vec<f64> {
        match self {
            Self::Linear => combine(a, 1.0 - t, b, t),
            Self::Spherical => slerp(a, b, t),
        }
    }
}

/// The latents of a path through `points`, with `n_steps` (at least 2) on each stretch between two points, both ends
/// included.
///
/// # Panics
/// If points have different numbers of dimensions.
#[must_use]
pub fn path(points: &[Vec<f64>], n_steps: usize, blend: Blend) -> Vec<Vec<f64>> {
    let n_steps = n_steps.max(2);
    let share = |step: usize| step as f64 / (n_steps - 1) as f64;
    points
        .windows(2)
        .flat_map(|ends| (0..n_steps).map(move |step| blend.at(&ends[0], &ends[1], share(step))))
        .collect()
}

/// sin((1 − t)ω)/sin ω · a + sin(tω)/sin ω · b, where ω is the angle between a and b.
fn slerp(a: &[f64], b: &[f64], t: f64) -> Vec<f64> {
    let (length_a, length_b) = (norm(a), norm(b));
    if length_a == 0.0 || length_b == 0.0 {
        return combine(a, 1.0 - t, b, t);
    }
    let cos = (dot(a, b) / (length_a * length_b)).clamp(-1.0, 1.0);
    let (omega, sin) = (cos.acos(), (1.0 - cos * cos).sqrt());
    if sin > 1e-6 {
        let (from, to) = (((1.0 - t) * omega).sin() / sin, (t * omega).sin() / sin);
        return combine(a, from, b, to);
    }
    if cos > 0.0 {
        return combine(a, 1.0 - t, b, t);
    }
    // Opposite points: every great circle connects them. Take the one through the axis that is farthest from both.
    let Some(side) = perpendicular(a) else {
        return combine(a, 1.0 - t, b, t); // In one dimension there is no great circle.
    };
    let length = (1.0 - t) * length_a + t * length_b;
    let (sin, cos) = (PI * t).sin_cos();
    combine(a, cos * length / length_a, &side, sin * length)
}

/// The unit vector orthogonal to `a` that is nearest to the axis in which `a` is smallest.
fn perpendicular(a: &[f64]) -> Option<Vec<f64>> {
    let least = (0..a.len()).min_by(|&i, &j| a[i].abs().total_cmp(&a[j].abs()))?;
    let share = a[least] / dot(a, a);
    let mut side: Vec<f64> = a.iter().map(|value| -share * value).collect();
    side[least] += 1.0;
    let length = norm(&side);
    (length > 1e-9).then(|| side.iter().map(|value| value / length).collect())
}

fn combine(a: &[f64], share_a: f64, b: &[f64], share_b: f64) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "latents of one space");
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| share_a * a + share_b * b).collect()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], wanted: &[f64]) {
        let error = found.iter().zip(wanted).map(|(a, b)| (a - b).abs());
        let close = found.len() == wanted.len() && error.fold(0.0, f64::max) < 1e-9;
        assert!(close, "{found:?}, {wanted:?}");
    }

    #[test]
    fn a_straight_path_has_its_points_and_the_middle_between() {
        let points = [vec![0.0, 2.0], vec![4.0, 0.0], vec![4.0, 6.0]];
        let found = path(&points, 3, Blend::Linear).concat();
        assert_close(
            &found,
            &[0.0, 2.0, 2.0, 1.0, 4.0, 0.0, 4.0, 0.0, 4.0, 3.0, 4.0, 6.0],
        );
    }

    #[test]
    fn a_spherical_path_goes_by_equal_angles() {
        // A third of a right angle: 30°.
        let found = path(&[vec![1.0, 0.0], vec![0.0, 1.0]], 4, Blend::Spherical);
        assert_close(&found[1], &[3_f64.sqrt() / 2.0, 0.5]);
        assert_close(&found[2], &[0.5, 3_f64.sqrt() / 2.0]);
        // Of different lengths: half way, sin 45° = √½ of each.
        let found = path(&[vec![2.0, 0.0], vec![0.0, 4.0]], 3, Blend::Spherical);
        assert_close(&found[1], &[2_f64.sqrt(), 2.0 * 2_f64.sqrt()]);
    }

    #[test]
    fn a_spherical_path_ends_where_it_should_whatever_its_ends_are() {
        let a = vec![0.6, 0.8, 0.0];
        for b in [
            a.clone(),
            vec![-0.6, -0.8, 0.0],
            vec![0.0, 0.0, 0.0],
            vec![0.6, 0.8, 1e-9],
        ] {
            let found = path(&[a.clone(), b.clone()], 5, Blend::Spherical);
            assert_close(&found[0], &a);
            assert_close(&found[4], &b);
            assert!(found.concat().iter().all(|value| value.is_finite()));
        }
        // Between opposite points it stays on the sphere, a quarter turn away half way.
        let found = path(&[a.clone(), vec![-0.6, -0.8, 0.0]], 3, Blend::Spherical);
        assert!((norm(&found[1]) - 1.0).abs() < 1e-12 && dot(&found[1], &a).abs() < 1e-12);
        assert_close(
            &path(&[vec![1.0], vec![-1.0]], 3, Blend::Spherical)[1],
            &[0.0],
        );
    }
}
