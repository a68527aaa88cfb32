"""Images that fit each small network."""

SMALL = {
    "mlp-64x2": (1, 8, 8),
    "resnet8": (1, 8, 8),
    "vgg19-narrow": (3, 16, 16),
    "densenet22": (2, 8, 8),
    "alexnet-narrow": (3, 32, 32),
    "mobilenetv2-narrow": (2, 8, 8),
    "resnet14-narrow": (3, 32, 32),
    "vit-tiny": (3, 16, 16),
}
