"""The figures of the ICLR 2025 submission, by number: `make iclr-fig1`.

Figures 3 and 4 show the trainings of CVPR's tables, whose α0 is 0.5 instead of 1 at paper scale.
"""

from matched.figure import BestAlpha0, NormShapes, Source, TokensAndChannels
from recipes.cvpr2025 import figures as cvpr2025
from recipes.cvpr2025.figures import layers

FIGURES = {
    1: NormShapes(
        caption="Outputs against inputs of LN layers, before the affine part",
        sources=(layers("ViT", "vit_b", "LN"), layers("wav2vec 2.0", "wav2vec2_large", "LN")),
    ),
    2: TokensAndChannels(
        caption="Outputs against inputs of an LN layer, coloured by token and by channel",
        source=layers("ViT", "vit_b", "LN"),
        depths=(2 / 3,),
    ),
    3: cvpr2025.FIGURES[8],
    4: cvpr2025.FIGURES[7],
    5: BestAlpha0(
        caption="Best initial α of LLaMA against its width: one α0 for all layers, lowest loss",
        sources=(Source(title="Table 10", recipe="iclr-table10", row="head_dim_128"),),
        printed={"8 layers, head dimension 128": ("iclr2025.table10", "head_dim_128")},
    ),
}
