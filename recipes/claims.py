"""Claims of both papers, and of two later ones, as statements that results can refute.

``make report`` judges them at every scale by itself; matched.claims describes the tests. Tables are
those of the CVPR 2025 paper; "iclr-table1" is one of the ICLR 2025 submission. The most decisive
claims come first, in which order ``make claims`` computes their tables.
"""

from itertools import pairwise

from matched.claims import (
    Above,
    Better,
    CellKey,
    Claim,
    Constant,
    Diverges,
    Falls,
    NotWorse,
)


def cell(table: str, row: str, arm: str) -> CellKey:
    return CellKey(table=table, row=row, arm=arm)


def ordered(table: str, row: str, *arms: str) -> tuple[tuple[CellKey, CellKey], ...]:
    """Pairs of neighbouring arms in one row, the best arm first."""
    cells = [cell(table, row, arm) for arm in arms]
    return tuple(pairwise(cells))


def above_all(table: str, row: str, arm: str, *others: str) -> tuple[tuple[CellKey, CellKey], ...]:
    """Pairs of one arm with each of the others in one row."""
    return tuple((cell(table, row, arm), cell(table, row, other)) for other in others)


def parity(domain: str, source: str, *tables: str) -> Claim:
    """DyT is not worse than the paper's norm layer in one domain."""
    return Claim(
        statement=f"{domain}: DyT performs on par with the norm layer or better",
        source=source,
        test=NotWorse(tables=tables),
    )


SQUASHING = ("tanh", "hardtanh", "sigmoid")
ANALYSIS = "recipes/norm_layers.py"
DATA_SIZE = "recipes/data_size.py"
ALPHA0_BY_PART = ("alpha0_attention", "alpha0_other")
LAYER_SHARES = ("inference_layer_share", "training_layer_share")
NORM_FREE_ROWS = ("vit_b", "vit_l", "mae_vit_b", "mae_vit_l")

CLAIMS = (
    Claim(
        statement="Without squashing (identity), training fails",
        source="CVPR, Table 8; ICLR, Table 8",
        test=Diverges(
            cells=(
                cell("table8", "vit_s", "identity"),
                cell("table8", "vit_b", "identity"),
                cell("iclr-table8", "without_alpha", "identity"),
                cell("iclr-table8", "with_alpha", "identity"),
            )
        ),
    ),
    Claim(
        statement="tanh is better than hardtanh, and hardtanh than sigmoid",
        source="CVPR, Table 8; ICLR, Table 8",
        test=Better(
            pairs=(
                *ordered("table8", "vit_s", *SQUASHING),
                *ordered("table8", "vit_b", *SQUASHING),
                *ordered("iclr-table8", "with_alpha", *SQUASHING),
            )
        ),
    ),
    Claim(
        statement="The best α0 of LLaMA falls with the width, in attention blocks and elsewhere",
        source="CVPR, Tables 11 and 12",
        test=Falls(tables=("table11", "table12"), along="rows", metrics=ALPHA0_BY_PART),
    ),
    Claim(
        statement="The best α0 of LLaMA does not depend on the depth, in attention and elsewhere",
        source="CVPR, Table 12",
        test=Constant(tables=("table12",), along="arms", metrics=ALPHA0_BY_PART),
    ),
    parity("Supervised vision", "CVPR and ICLR, Table 1", "table1", "iclr-table1"),
    parity("Language models", "CVPR and ICLR, Table 4", "table4", "iclr-table4"),
    parity("DNA", "CVPR and ICLR, Table 6", "table6", "iclr-table6"),
    Claim(
        statement="The learnable α is needed: without it accuracy is lower",
        source="CVPR, Table 9; ICLR, Table 8",
        test=Better(
            pairs=tuple(
                (cell(table, "with_alpha", arm), cell(table, "without_alpha", arm))
                for table in ("table9", "iclr-table8")
                for arm in SQUASHING
            )
        ),
    ),
    Claim(
        statement="DyT lowers the validation loss where text is scarce and repeated",
        source="arXiv 2604.23434",
        test=Better(
            pairs=tuple(
                (cell(DATA_SIZE, row, "DyT"), cell(DATA_SIZE, row, "RMSNorm"))
                for row in ("tokens_100k_repeated", "tokens_1m_repeated")
            )
        ),
    ),
    Claim(
        statement="DyT raises the validation loss where text is plentiful",
        source="arXiv 2604.23434",
        test=Better(pairs=above_all(DATA_SIZE, "tokens_7m", "RMSNorm", "DyT")),
    ),
    Claim(
        statement="The best α0 of LLaMA falls with the width",
        source="ICLR, Tables 7 and 10, Figure 5",
        test=Falls(tables=("iclr-table7",), along="rows"),
    ),
    Claim(
        statement="The best α0 of LLaMA does not depend on the depth",
        source="ICLR, Table 7",
        test=Constant(tables=("iclr-table7",), along="arms"),
    ),
    Claim(
        statement="The best α0 of LLaMA depends on neither head dimension nor sequence length",
        source="ICLR, Table 10",
        test=Constant(tables=("iclr-table10",), along="rows"),
    ),
    parity("Self-supervised vision", "CVPR and ICLR, Table 2", "table2", "iclr-table2"),
    parity("Image generation", "CVPR and ICLR, Table 3", "table3", "iclr-table3"),
    parity("Speech", "CVPR and ICLR, Table 5", "table5", "iclr-table5"),
    Claim(
        statement="DyT is better than Fixup and SkipInit",
        source="CVPR, Table 10",
        test=Better(
            pairs=tuple(
                pair
                for row in NORM_FREE_ROWS
                for pair in above_all("table10", row, "DyT", "Fixup", "SkipInit")
            )
        ),
    ),
    Claim(
        statement="DyT is better than σReparam",
        source="CVPR, Table 10",
        test=Better(
            pairs=tuple(
                pair
                for row in NORM_FREE_ROWS
                for pair in above_all("table10", row, "DyT", "sigmaReparam")
            )
        ),
    ),
    Claim(
        statement="DyT does not replace BN in classic ConvNets: accuracy is lower",
        source="CVPR, Table 15; ICLR, Table 11",
        test=Better(
            pairs=(
                *above_all("table15", "resnet50", "BN", "DyT"),
                *above_all("table15", "vgg19", "BN", "DyT"),
                *above_all("iclr-table11", "resnet50", "BN", "DyT"),
                *above_all("iclr-table11", "vgg16", "BN", "DyT"),
            )
        ),
    ),
    Claim(
        statement="LN fails in ResNet-50, and BN in ViT",
        source="ICLR, Table 11",
        test=Diverges(
            cells=(
                cell("iclr-table11", "resnet50", "LN"),
                cell("iclr-table11", "vit_b", "BN"),
            )
        ),
    ),
    Claim(
        statement="α follows 1/std of the layer's inputs: their rank correlation is above 0",
        source="CVPR, Figure 8; ICLR, Figure 3",
        test=Above(
            cells=(cell(ANALYSIS, "vit_b", "DyT"), cell(ANALYSIS, "convnext_b", "DyT")),
            metric="alpha_correlation",
        ),
    ),
    Claim(
        statement="Deep LN layers map inputs to outputs in an S-shape, early ones more linearly",
        source="CVPR, Figure 2; ICLR, Figure 1",
        test=Above(
            cells=tuple(
                cell(ANALYSIS, row, "LN") for row in ("vit_b", "wav2vec2_large", "dit_xl2")
            ),
            metric="gain_difference",
        ),
    ),
    Claim(
        statement="Outside of LLaMA the default α0 is as good as a tuned one",
        source="CVPR, Table 14",
        test=NotWorse(tables=("table14",), arm="DyT (original)", than="DyT (tuned)"),
    ),
    Claim(
        statement="DyT at the original learning rate is as good as at a tuned one",
        source="CVPR, Table 13",
        test=NotWorse(tables=("table13",), arm="DyT (original)", than="DyT (tuned)"),
    ),
    Claim(
        statement="Derf is not worse than DyT",
        source="arXiv 2512.10938, on the tables of CVPR and ICLR",
        test=NotWorse(
            tables=tuple(f"{paper}table{n}" for paper in ("", "iclr-") for n in range(1, 7)),
            arm="Derf",
            than="DyT",
        ),
    ),
    Claim(
        statement="DyT layers are faster than unfused RMSNorm layers",
        source="CVPR, Table 7",
        test=Better(
            pairs=((cell("table7", "llama_7b", "DyT"), cell("table7", "llama_7b", "RMSNorm")),),
            metrics=LAYER_SHARES,
        ),
    ),
    Claim(
        statement="Compiled, DyT layers are not faster than RMSNorm layers",
        source="CVPR, appendix on Table 7",
        test=Better(
            pairs=(
                (
                    cell("table7", "llama_7b", "RMSNorm, compiled"),
                    cell("table7", "llama_7b", "DyT, compiled"),
                ),
            ),
            metrics=LAYER_SHARES,
            within_spread=True,
        ),
    ),
)
