// The table of the Library view: sorting, filtering, opening a row.

(function() {
    "use strict";

    const {root, byId, tell, onTend} = window.Modelsmith;

    function sortValue(cell) {
        const value = cell ? cell.dataset.sort || cell.textContent : "";
        return value !== "" && Number.isFinite(Number(value)) ? Number(value) : value.toLowerCase();
    }

    function sortTable(table, column, button) {
        const down = button.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th").forEach(head => head.setAttribute("aria-sort", "none"));
        button.setAttribute("aria-sort", down ? "descending" : "ascending");
        libraryState.column = button.textContent;
        libraryState.down = down;
        const body = table.tBodies[0];
        const rows = Array.from(body.rows).map(row => [sortValue(row.cells[column]), row]);
        const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
        rows.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
        body.append(...rows.map(pair => pair[1]));
    }

    function filterTable(library) {
        const words = library.querySelector(".ms-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
        const kind = library.querySelector(".ms-kind-filter").value;
        libraryState.text = library.querySelector(".ms-filter").value;
        libraryState.kind = kind;
        let shown = 0;
        for (const row of library.querySelector("tbody").rows) {
            const text = row.textContent.toLowerCase();
            row.hidden = Boolean(kind && row.dataset.kind !== kind) || !words.every(word => text.includes(word));
            shown += row.hidden ? 0 : 1;
        }
        library.querySelector(".ms-shown").textContent = String(shown);
    }

    // A new table takes over what the user had typed and how the old one was sorted.
    const libraryState = {text: "", kind: "", column: "", down: false, typing: false};

    function restoreLibrary(library) {
        const text = library.querySelector(".ms-filter");
        const kind = library.querySelector(".ms-kind-filter");
        text.value = libraryState.text;
        kind.value = libraryState.kind;
        if (kind.selectedIndex < 0) kind.value = "";
        // By its name: a column of hashes comes and goes.
        const head = [...library.querySelectorAll("th")].find(one => one.textContent === libraryState.column);
        if (head) {
            head.setAttribute("aria-sort", libraryState.down ? "ascending" : "none");
            sortTable(library.querySelector("table"), head.cellIndex, head);
        }
        if (text.value || kind.value) filterTable(library);
        keepFocus(library);
    }

    const openRow = row => tell("modelsmith_library_open", {name: row.dataset.name});

    function renew(holder) {
        holder.querySelectorAll(".ms-library:not([data-ready])").forEach(library => {
            library.dataset.ready = "1";
            restoreLibrary(library);
        });
    }

    // What was being typed in goes on in the new table.
    function keepFocus(library) {
        if (!libraryState.typing) return;
        const field = library.querySelector(".ms-filter");
        field.focus({preventScroll: true});
        field.setSelectionRange(field.value.length, field.value.length);
    }

    function act(event) {
        const head = event.target.closest("th");
        const row = event.target.closest("tbody tr");
        if (head) sortTable(head.closest("table"), head.cellIndex, head);
        else if (row) openRow(row);
        return head || row;
    }

    // The component stays while its table is replaced, so it is what listens: no click is lost between two tables, and
    // the new one is sorted and filtered before it is painted.
    function tendLibrary() {
        const holder = byId("modelsmith_library_table");
        if (!holder || holder.dataset.heard) return;
        holder.dataset.heard = "1";
        const filtered = event => {
            const library = event.target.closest(".ms-library");
            if (library && event.target.matches(".ms-filter, .ms-kind-filter")) filterTable(library);
        };
        holder.addEventListener("input", filtered);
        holder.addEventListener("change", filtered);
        holder.addEventListener("click", act);
        holder.addEventListener("keydown", event => {
            const key = event.key === "Enter" || (event.key === " " && event.target.closest("th"));
            if (key && event.target.closest("th, tbody tr") && act(event)) event.preventDefault();
        });
        holder.addEventListener("focusin", event => { libraryState.typing = event.target.matches(".ms-filter"); });
        document.addEventListener("pointerdown", event => {
            if (!event.target.closest || !event.target.closest(".ms-filter")) libraryState.typing = false;
        });
        new MutationObserver(() => renew(holder)).observe(holder, {childList: true, subtree: true});
        renew(holder);
    }

    // As long as files are still being read. A table that looks as it did is not drawn anew, so its markup cannot be what
    // asks the next time.
    setInterval(() => {
        const library = byId("modelsmith_library_table")?.querySelector(".ms-library");
        if (library?.offsetParent && Number(library.dataset.waiting) > 0) byId("modelsmith_library_poll")?.click();
    }, 700);

    onTend(tendLibrary);
})();
