// The History view: rows and buttons tell the server what to do; the queue is asked for anew while something is in it.

(function() {
    "use strict";

    const {root, byId, tell, onTend, tr} = window.Modelsmith;
    const FIELD = "modelsmith_history_asked";
    // The entry that waits for a second one to be compared with.
    let first = "";

    function choose(id) {
        if (first && first !== id) {
            tell(FIELD, {act: "compare", id: first, other: id});
        } else {
            tell(FIELD, {act: "show", id: id});
        }
        first = "";
    }

    function press(button) {
        const act = button.dataset.act;
        if (act !== "compare") {
            tell(FIELD, {act: act, id: button.dataset.id});
            return;
        }
        first = button.dataset.id;
        button.textContent = tr("Choose the other entry in the table");
    }

    function tendTables() {
        root().querySelectorAll(".ms-history:not([data-ready])").forEach(table => {
            table.dataset.ready = "1";
            const open = event => {
                const row = event.target.closest("tr[data-id]");
                if (row) choose(row.dataset.id);
            };
            table.addEventListener("click", open);
            table.addEventListener("keydown", event => {
                if (event.key === "Enter") open(event);
            });
        });
        root().querySelectorAll(".ms-entry:not([data-ready]), .ms-queue:not([data-ready])").forEach(part => {
            part.dataset.ready = "1";
            part.addEventListener("click", event => {
                const button = event.target.closest("button[data-act]");
                if (button) press(button);
            });
            if (Number(part.dataset.busy) > 0) setTimeout(() => byId("modelsmith_history_poll")?.click(), 700);
        });
    }

    onTend(tendTables);
})();
