"""Texts of all kinds for property tests: what users paste, and what breaks the counting of characters."""

from hypothesis import strategies as st

_PIECES = (
    "the cat", "Mr. Li", "don't", "U.S.", "@user", ":)", "well-known", "3.14", "$5", "(", ").", "…", "“so”",
    " ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028", "\u3000",
    "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "❤\ufe0f", "😀", "e\u0301", "\u0301", "n\u0303a", "ﬁne", "ﬃ", "ǆ", "Straße", "İ",
    "\u200b", "\u200d", "\u200e", "\ufeff", "\u00ad", "\u2060", "\x00", "\x1b[31m", "\x7f", "\x9b", "\ue000", "\ufdd0",
    "苹果", "我住在北京。", "𠮷", "かな", "カﾅ", "한국어", "한", "مرحبا", "السَّلامُ", "לִי", "สวัสดี", "น้ำ", "မြန်မာ", "क्षि",
    "\ud800", "\udfff", "[MASK]", "[UNK]", "##ed", "<b>", "&amp;", '"', "'", "\\", ",", ";",
)  # fmt: skip

TEXTS = st.lists(st.sampled_from(_PIECES) | st.characters() | st.text(max_size=3), max_size=14).map("".join)
"""any text, with NUL and lone surrogates too"""

UTF8_TEXTS = TEXTS.map(lambda text: text.encode("utf-8", "ignore").decode())
"""without lone surrogates"""
