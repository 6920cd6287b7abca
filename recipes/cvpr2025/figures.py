"""The figures of the CVPR 2025 paper, by number: `make fig2`, or `matched figure fig2`.

Figure 3's three values of α are not in the text of the paper; 0.5, 1 and 2 are chosen here. Figures
9 and 11 show what its analysis of α0 does, results against α0 and a map of LLaMA's loss over α0 in
attention blocks and elsewhere; their panels and values are those of Tables 14 and 11 here.
"""

from matched.figure import (
    AlphaAgainstStd,
    AlphaDuringTraining,
    BlockDiagram,
    LossCurves,
    NormShapes,
    PairsTried,
    Source,
    TanhCurves,
    TokensAndChannels,
    ValuesTried,
)

ANALYSIS = "recipes/norm_layers.py"
EPOCHS = "recipes/alpha_per_epoch.py"


def layers(title: str, row: str, arm: str) -> Source:
    """The analysis of one network's norm layers."""
    return Source(title=title, recipe=ANALYSIS, row=row, arms=(arm,))


FIGURES = {
    1: BlockDiagram(caption="A Transformer block with a norm layer, and with DyT instead"),
    2: NormShapes(
        caption="Outputs against inputs of LN layers, before the affine part",
        sources=(
            layers("ViT", "vit_b", "LN"),
            layers("wav2vec 2.0", "wav2vec2_large", "LN"),
            layers("DiT", "dit_xl2", "LN"),
        ),
    ),
    3: TanhCurves(caption="tanh(αx) for three values of α", alphas=(0.5, 1.0, 2.0)),
    4: TokensAndChannels(
        caption="Outputs against inputs of two LN layers, coloured by token and by channel",
        source=layers("ViT", "vit_b", "LN"),
        depths=(0.5, 1.0),
    ),
    5: LossCurves(
        caption="Training loss of ViT-B and ConvNeXt-B",
        sources=(
            Source(title="ViT-B", recipe="table1", row="vit_b"),
            Source(title="ConvNeXt-B", recipe="table1", row="convnext_b"),
        ),
    ),
    6: LossCurves(
        caption="Training loss of LLaMA",
        sources=tuple(
            Source(
                title=f"LLaMA {size.upper()}",
                recipe="table4",
                row=f"llama_{size}",
                need="pretrained",
            )
            for size in ("7b", "13b", "34b", "70b")
        ),
    ),
    7: AlphaDuringTraining(
        caption="α and 1/std of the inputs of two DyT layers after each epoch",
        source=Source(title="ViT-B", recipe=EPOCHS, row="vit_b"),
    ),
    8: AlphaAgainstStd(
        caption="α against 1/std of the inputs at the end of training",
        sources=(
            layers("ViT-B", "vit_b", "DyT"),
            layers("ConvNeXt-B", "convnext_b", "DyT"),
        ),
    ),
    9: ValuesTried(
        caption="Results with DyT against α0, and with the norm layer",
        sources=tuple(
            Source(title=title, recipe="table14", row=row, arms=("LN", "DyT (tuned)"))
            for title, row in (
                ("ViT-B", "vit_b"),
                ("MAE ViT-B", "mae_vit_b"),
                ("DiT-B", "dit_b4"),
                ("wav2vec 2.0 Base", "wav2vec2_base"),
                ("HyenaDNA", "hyenadna"),
            )
        ),
    ),
    11: PairsTried(
        caption="Training loss of LLaMA 7B over α0 in attention blocks and elsewhere",
        sources=(Source(title="LLaMA 7B", recipe="table11", row="llama_7b"),),
    ),
}
