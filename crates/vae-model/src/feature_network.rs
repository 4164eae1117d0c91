//! Fixed networks whose features of images are compared: a user's TorchScript, or the classifier of MNIST's digits.

use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Kind, Tensor};

use crate::{ModelError, read_tensors};

/// A network with fixed weights that gives features of images. Gradients go through it to the images.
#[derive(Debug)]
pub struct FeatureNetwork {
    path: PathBuf,
    device: Device,
    kind: FeatureKind,
}

#[derive(Debug)]
enum FeatureKind {
    TorchScript(CModule),
    Digits(DigitWeights),
}

/// Weights and biases of the feature layers of the classifier of MNIST's digits: two convolutions, a fully connected
/// layer.
#[derive(Debug)]
pub struct DigitWeights {
    /// 5×5, `[16, 1, 5, 5]` and `[16]`.
    pub first: [Tensor; 2],
    /// 3×3, `[32, 16, 3, 3]` and `[32]`.
    pub second: [Tensor; 2],
    /// `[128, 32·7·7]` and `[128]`.
    pub penultimate: [Tensor; 2],
}

impl DigitWeights {
    /// The activations of the three layers for images `[N, 1, 28, 28]` in `[0, 1]`: `[N, 16, 14, 14]`,
    /// `[N, 32, 7, 7]` and `[N, 128]`.
    pub fn features(&self, images: &Tensor) -> [Tensor; 3] {
        let layer = |maps: &Tensor, [weight, bias]: &[Tensor; 2], padding: i64| {
            let maps = maps.conv2d(weight, Some(bias), [1; 2], [padding; 2], [1; 2], 1);
            maps.relu().max_pool2d_default(2)
        };
        let first = layer(images, &self.first, 2);
        let second = layer(&first, &self.second, 1);
        let [weight, bias] = &self.penultimate;
        let penultimate = second.flatten(1, -1).linear(weight, Some(bias)).relu();
        [first, second, penultimate]
    }
}

impl FeatureNetwork {
    /// A TorchScript file as `torch.jit.save` writes it: f32 `[N, 3, H, W]` in `[0, 1]` to a tensor, or a tuple or list
    /// of tensors, each with the images first.
    ///
    /// # Errors
    /// The file does not exist or is not TorchScript.
    pub fn torch_script(path: impl AsRef<Path>, device: Device) -> Result<Self, ModelError> {
        let path = path.as_ref();
        vae_base::open_regular(path).map_err(ModelError::io(path))?;
        let mut module = CModule::load_on_device(path, device).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            ModelError::weights(
                path,
                format!("is not a TorchScript file as written by `torch.jit.save` ({reason})"),
            )
        })?;
        module.f_set_eval()?;
        for (_, parameter) in module.named_parameters()? {
            let _ = parameter.f_set_requires_grad(false)?;
        }
        Ok(Self {
            path: path.to_owned(),
            device,
            kind: FeatureKind::TorchScript(module),
        })
    }

    /// The classifier of digits that `cargo xtask classifier` trains, for images of 1×28×28.
    ///
    /// # Errors
    /// The file does not exist, is damaged, or has other tensors.
    pub fn digits(path: impl AsRef<Path>, device: Device) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let file = read_tensors(path)?;
        let wanted: [(&str, &[i64]); 6] = [
            ("first.weight", &[16, 1, 5, 5]),
            ("first.bias", &[16]),
            ("second.weight", &[32, 16, 3, 3]),
            ("second.bias", &[32]),
            ("penultimate.weight", &[128, 32 * 7 * 7]),
            ("penultimate.bias", &[128]),
        ];
        let of = |(name, shape): (&str, &[i64])| {
            let tensor = file.tensors.get(name).filter(|t| t.size() == shape);
            tensor.map(|t| t.to_device(device)).ok_or_else(|| {
                let problem = format!(
                    "is not a classifier of digits: it has no {name} {shape:?}; `cargo xtask classifier` makes one"
                );
                ModelError::weights(path, problem)
            })
        };
        let [a, b, c, d, e, f] = wanted.map(of);
        Ok(Self {
            path: path.to_owned(),
            device,
            kind: FeatureKind::Digits(DigitWeights {
                first: [a?, b?],
                second: [c?, d?],
                penultimate: [e?, f?],
            }),
        })
    }

    /// Features of images f32 `[N, C, H, W]` in `[0, 1]`: one or more tensors with the images first.
    ///
    /// # Errors
    /// Images of a shape that the network does not support; features that are not floats of each image.
    pub fn features(&self, images: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let (n_images, channels, height, width) = images.size4()?;
        let problem = |problem: String| Err(ModelError::weights(&self.path, problem));
        let images = images.to_device(self.device).to_kind(Kind::Float);
        match &self.kind {
            FeatureKind::Digits(weights) => match (channels, height, width) {
                (1, 28, 28) => Ok(weights.features(&images).into()),
                _ => problem(format!(
                    "the classifier of digits knows images of 1×28×28, found {channels}×{height}×{width}"
                )),
            },
            FeatureKind::TorchScript(module) => {
                let images = match channels {
                    1 => images.expand([n_images, 3, height, width], false),
                    3 => images,
                    n => {
                        return problem(format!(
                            "takes color images or gray ones, found {n} channels"
                        ));
                    }
                };
                let said = module
                    .forward_is(&[IValue::Tensor(images.contiguous())])
                    .map_err(|error| {
                        // The reason is in the last line of libtorch's message.
                        let account = error.to_string();
                        let mut lines = account.lines().rev().map(str::trim);
                        let reason = lines.find(|line| !line.is_empty()).unwrap_or_default();
                        ModelError::weights(
                            &self.path,
                            format!(
                                "fails on images f32 [{n_images}, 3, {height}, {width}]: {reason}"
                            ),
                        )
                    })?;
                let features = tensors(said);
                let fits =
                    |t: &Tensor| t.size().first() == Some(&n_images) && t.is_floating_point();
                match features {
                    Some(features) if !features.is_empty() && features.iter().all(fits) => {
                        Ok(features)
                    }
                    _ => problem(format!(
                        "has to give a tensor, or a tuple or list of them, of floats [{n_images}, …]"
                    )),
                }
            }
        }
    }
}

/// The tensors of a value; `None` if it has anything else.
fn tensors(value: IValue) -> Option<Vec<Tensor>> {
    match value {
        IValue::Tensor(tensor) => Some(vec![tensor]),
        IValue::TensorList(tensors) => Some(tensors),
        IValue::Tuple(values) | IValue::GenericList(values) => {
            let tensors = values.into_iter().map(|value| match value {
                IValue::Tensor(tensor) => Some(tensor),
                _ => None,
            });
            tensors.collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::write_tensors;

    fn weights() -> Vec<(String, Tensor)> {
        let wave = |shape: &[i64], scale: f64| {
            let n: i64 = shape.iter().product();
            let values = Tensor::arange(n, (Kind::Float, Device::Cpu)).sin() * scale;
            values.view(shape)
        };
        [
            ("first.weight", wave(&[16, 1, 5, 5], 0.2)),
            ("first.bias", wave(&[16], 0.1)),
            ("second.weight", wave(&[32, 16, 3, 3], 0.1)),
            ("second.bias", wave(&[32], 0.1)),
            ("penultimate.weight", wave(&[128, 1568], 0.05)),
            ("penultimate.bias", wave(&[128], 0.1)),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .into()
    }

    #[test]
    fn a_classifiers_layers_are_features_and_gradients_reach_the_images() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.safetensors");
        write_tensors(&path, &weights(), &[]).expect("written");
        let network = FeatureNetwork::digits(&path, Device::Cpu).expect("a network");
        let images = Tensor::ones([2, 1, 28, 28], (Kind::Float, Device::Cpu));
        let images = images.set_requires_grad(true);
        let features = network.features(&images).expect("features");
        let sizes: Vec<_> = features.iter().map(Tensor::size).collect();
        assert_eq!(
            sizes,
            [vec![2, 16, 14, 14], vec![2, 32, 7, 7], vec![2, 128]]
        );
        features[2].sum(Kind::Float).backward();
        assert!(images.grad().abs().sum(Kind::Double).double_value(&[]) > 0.0);
        let color = Tensor::ones([2, 3, 28, 28], (Kind::Float, Device::Cpu));
        let said = network.features(&color).expect_err("refused").to_string();
        assert!(said.contains("1×28×28, found 3×28×28"), "{said}");
    }

    #[test]
    fn a_file_that_is_no_network_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.safetensors");
        write_tensors(&path, &weights()[1..], &[]).expect("written");
        let said = FeatureNetwork::digits(&path, Device::Cpu).expect_err("refused");
        let said = said.to_string();
        assert!(
            said.contains("c.safetensors") && said.contains("no first.weight"),
            "{said}"
        );
        let said = FeatureNetwork::torch_script(&path, Device::Cpu).expect_err("refused");
        assert!(said.to_string().contains("TorchScript"), "{said}");
        let missing = folder.path().join("none.pt");
        assert!(FeatureNetwork::torch_script(missing, Device::Cpu).is_err());
    }

    #[test]
    fn a_users_torchscript_gives_one_tensor_or_several() {
        let folder = tempfile::tempdir().expect("a folder");
        let images = Tensor::arange(2 * 3 * 16, (Kind::Float, Device::Cpu)).view([2, 3, 4, 4]);
        let mut squared = |inputs: &[Tensor]| vec![inputs[0].square().flatten(1, -1)];
        let module = no_grad(|| {
            CModule::create_by_tracing("features", "forward", &[images.copy()], &mut squared)
        });
        let path = folder.path().join("squares.pt");
        module.expect("traced").save(&path).expect("saved");
        let network = FeatureNetwork::torch_script(&path, Device::Cpu).expect("a network");
        let images = images.set_requires_grad(true);
        let features = network.features(&images).expect("features");
        assert_eq!(features.len(), 1);
        assert_eq!(features[0].size(), [2, 48]);
        features[0].sum(Kind::Float).backward();
        assert_eq!(images.grad(), images.detach() * 2.0);
    }
}
