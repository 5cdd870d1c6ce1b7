"""Made-up but plausible results, English and Chinese, and a page with every picture: `python -m tests.report.demo FILE`."""

import sys
from pathlib import Path

import numpy as np

from bert.report import charts, maps
from bert.report.page import Marked, Section, details, grid, heading, key_metrics, note, page, paragraph, table

APPLE = {
    "fruit": [
        "She cut the apple into thin slices and ate it with cheese.",
        "An apple fell from the tree behind the old barn.",
        "He peeled an apple for the child and kept the core.",
        "The recipe needs one sour apple, butter and cinnamon.",
        "A worm had eaten its way through the red apple.",
        "They pressed every apple of the harvest into cider.",
        "The apple was so ripe that it tasted like honey.",
        "My grandmother bakes an apple cake every Sunday.",
    ],
    "company": [
        "Shares of Apple rose after the company sold more phones.",
        "Apple opened a new office for its chip designers.",
        "The court told Apple to pay a fine of two million.",
        "Analysts expect Apple to present a cheaper tablet.",
        "She works for Apple as an engineer for displays.",
        "Apple and its rivals fight over the price of music.",
        "The new chief of Apple spoke to investors on Monday.",
        "Developers pay Apple a share of what they earn.",
    ],
}
PINGGUO = {
    "水果": "她把苹果切成薄片,放在盘子里。 树上的苹果已经熟透了。 孩子每天早上吃一个苹果。 "
    "这种苹果又脆又甜。 市场上的苹果两块钱一斤。 奶奶用苹果做了一个馅饼。".split(),
    "公司": "苹果发布了新款手机。 投资者在周一买入苹果的股票。 苹果的工程师设计了这块芯片。 "
    "法院要求苹果支付罚款。 苹果在上海开了一家新店。 苹果公司公布了季度利润。".split(),
}


def layer_map_of(sentences: dict[str, list[str]], word: str, layers: int = 5, seed: int = 0) -> maps.LayerMap:
    """Occurrences whose senses part from layer to layer."""
    draw = np.random.default_rng(seed)
    names = list(sentences)
    groups = [name for name in names for _ in sentences[name]]
    texts = [text for name in names for text in sentences[name]]
    starts = [text.casefold().index(word.casefold()) for text in texts]
    side = np.array([names.index(group) for group in groups])
    base, drift = draw.normal(size=(2, len(texts), 12))
    direction = draw.normal(size=12)
    share = np.linspace(0, 1, layers)
    vectors = np.stack([base + 0.6 * s * drift + 1.5 * s * np.outer(2 * side - 1, direction) + 1 for s in share])
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    plane = np.linalg.svd(vectors[-1] - vectors[-1].mean(0), full_matrices=False)[2][:2]
    return maps.LayerMap(
        occurrences=[Marked(text, start, start + len(word)) for text, start in zip(texts, starts)],
        groups=groups,
        positions=(vectors - vectors.mean(1, keepdims=True)) @ plane.T,
        layers=["embeddings", *(f"layer {n}" for n in range(1, layers))],
        measures={"silhouette": (0.02 + 0.5 * share**1.5).tolist(), "accuracy": (0.5 + 0.48 * share).tolist()},
        directions=unit,
    )


def heads_of(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Four heads with habits: the token before, the token itself, the first token, and anything."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(4, size, size))
    scores[0] += 4 * np.eye(size, k=-1)
    scores[1] += 3 * np.eye(size)
    scores[2, :, 0] += 3.5
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return {f"layer {n // 2 + 3}, head {n % 2 + 1}": weights[n] for n in range(4)}


def loss_curves() -> dict[str, list[tuple[float, float]]]:
    draw = np.random.default_rng(1)
    steps = np.arange(10, 1201, 10)
    train = 2.1 + 4.6 * np.exp(-steps / 210) + draw.normal(0, 0.05, len(steps))
    held_out = 2.25 + 4.5 * np.exp(-steps[9::10] / 215)
    return {"training text": list(zip(steps, train)), "held-out text": list(zip(steps[9::10], held_out))}


def sections() -> list[Section]:
    apple, pingguo = layer_map_of(APPLE, "apple"), layer_map_of(PINGGUO, "苹果", seed=3)
    fruit, company = apple.occurrences[0], apple.occurrences[8]
    tokens = ["[CLS]", "the", "apple", "fell", "from", "the", "tree", ".", "[SEP]"]
    right = charts.ScoredText(["she", "ate", "an", "apple", "."], [-2.1, -1.2, -0.3, -1.6, -0.1])
    wrong = charts.ScoredText(["she", "drove", "an", "apple", "."], [-2.2, -6.9, -1.1, -5.4, -0.2])
    cards = [
        charts.fill_in(fruit, [("apple", 0.46), ("onion", 0.17), ("lemon", 0.11), ("bread", 0.08), ("pear", 0.05)]),
        charts.fill_in(company, [("google", 0.31), ("apple", 0.28), ("intel", 0.12), ("stocks", 0.05), ("it", 0.02)]),
        charts.fill_in(pingguo.occurrences[1], [("果", 0.38), ("苹", 0.22), ("花", 0.12), ("叶", 0.06), ("葡", 0.03)]),
        charts.fill_in(pingguo.occurrences[6], [("苹", 0.52), ("果", 0.21), ("公", 0.04), ("又", 0.02), ("华", 0.01)]),
    ]
    near = [(apple.occurrences[n], c) for n, c in ((1, 0.87), (4, 0.84), (6, 0.79), (12, 0.31), (9, -0.02))]
    far = [(apple.occurrences[n], c) for n, c in ((14, 0.91), (10, 0.86), (11, 0.85), (3, 0.22), (5, 0.19))]
    results = [
        ["Topic of a sentence (accuracy)", 0.982, 0.611, 0.333],
        ["Names in a sentence (span F1)", 0.941, 0.702, 0.0],
        ["Sense of a word, English (accuracy)", 0.958, 0.574, 0.5],
        ["Sense of a word, Chinese (accuracy)", 0.931, 0.548, 0.5],
    ]
    return [
        Section(
            "It learns by guessing",
            charts.line_chart(loss_curves(), "step", "loss (nats a guess)")
            + paragraph("A loss of 2.3 means that one guess in ten would be expected by chance."),
            "Words are hidden from the model, and it is asked which stood there. The less surprised it is, the lower the curve.",
        ),
        Section(
            "It fills in blanks", grid(cards), "A word of each sentence is covered; the bars are the model's guesses."
        ),
        Section(
            "One word, two meanings",
            heading("apple", "16 sentences") + maps.layer_map(apple) + heading("苹果", "12 sentences") + maps.layer_map(pingguo),
            "Each mark is one sentence. Move the slider: in the first layer the marks lie together, and context parts them.",
        ),
        Section(
            "Neighbours in meaning",
            grid([charts.contexts(fruit, near, [0, 0, 0, 0, 1, 1]), charts.contexts(company, far, [1, 1, 1, 1, 0, 0])]),
            "The sentences in which the word's vector is nearest.",
        ),
        Section(
            "Where it looks",
            maps.attention_map(tokens, heads_of(len(tokens)))
            + note("Attention shows what is mixed into a vector. It does not by itself explain a decision."),
            "One head of one layer.",
        ),
        Section(
            "Right or wrong?",
            charts.side_by_side(right, wrong),
            "How probable each token is to the model, given all others.",
        ),
        Section(
            "The results",
            table(["Task", "Pretrained", "Random start", "Trivial"], results, [(n, 1) for n in range(4)])
            + charts.bars([(str(row[0]), float(row[1]), None, str(row[1])) for row in results])
            + details("Where they come from", paragraph("Each task was measured once.")),
            "Each number beside what an untrained model and a rule without a model get.",
        ),
    ]  # fmt: skip


def crowded_page() -> str:
    """More of everything than is sensible: long words, many groups, layers, tokens and columns."""
    endless = "Donaudampfschifffahrtsgesellschaft" * 6
    senses = {
        f"sense {n} {endless if n == 3 else ''}": [f"{endless} apple {n} " + "and so on " * 60] * 30 for n in range(11)
    }
    word = layer_map_of(senses, "apple", layers=25)
    tokens = [endless if n == 7 else f"token{n}" for n in range(64)]
    sentence = word.occurrences[0]
    parts = [
        maps.layer_map(word),
        maps.attention_map(tokens, {f"layer {n} {endless}": np.full((64, 64), 1 / 64) for n in range(4)}),
        table([endless] * 12, [[endless] * 12]),
        table(["a"] * 40, [[123456.0] * 40]),
        charts.bars([(endless, 1e12, (1e11, 1e12), endless), ("b", 3.0, None, "3")], 1e12),
        charts.fill_in(sentence, [(endless, 0.5)]),
        charts.contexts(sentence, [(sentence, 0.5)]),
        charts.side_by_side(charts.ScoredText(tokens, [-1.0] * 64), charts.ScoredText(tokens[:30], [-123.0] * 30)),
        charts.line_chart({endless: [(1e9, 1e-9), (2e9, 1e9)]}, endless, endless),
        heading(endless, endless),
        note(endless),
        details(endless, paragraph(endless)),
    ]
    sections = [Section(endless, "".join(parts), endless), *(Section(f"Section {n}", "") for n in range(20))]
    return page(endless, endless, sections, metrics=key_metrics([(endless, endless, endless)] * 7), footer=endless)


def demo_page() -> str:
    metrics = key_metrics(
        [
            ("Senses of “apple” told apart", "97 %", "54 % before training"),
            ("Topics found", "98.2 %", "61 % with a random start"),
            ("Loss", "2.31", "5.9 for guessing by frequency"),
            ("Time", "2 min 41 s", "on 2 processor cores"),
        ]
    )
    return page(
        "What a small BERT learned",
        "A model of 3 million weights read 400,000 words. Here is what it makes of a word in its context.",
        sections(),
        metrics=metrics,
        footer="bert 0.1.0 · seed 0 · made by `bert quickstart`",
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(demo_page(), encoding="utf-8")
