"""Small imitations of data sets of the Hub: a folder with a card that declares configurations and features, and JSON lines."""

import json

import yaml


def class_label(*names):
    """A feature of a data set card: a label by its number."""
    return {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}


def write_data_set(folder, configurations):
    """`configurations`: name → (type of each column, rows of each split), as in the card of a data set of the Hub."""
    listed, described = [], []
    for name, (columns, splits) in configurations.items():
        for split, rows in splits.items():
            file = folder / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        files = [{"split": split, "path": f"{name}/{split}.jsonl"} for split in splits]
        listed.append({"config_name": name, "data_files": files})
        features = [{"name": column} | kind for column, kind in columns.items()]
        described.append({"config_name": name, "features": features})
    card = yaml.safe_dump({"configs": listed, "dataset_info": described})
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
