"""How `wherry model add` comes to a card: from flags, from the files, and by asking for the rest.

    model, version -> source -> signature -> task -> data -> labels, goal, lineage

`given` is what there is to draft from; `source`, `signature`, `task` and `data` draft a part each,
and `card` puts them together. What is guessed is only ever the default of a question.
"""
