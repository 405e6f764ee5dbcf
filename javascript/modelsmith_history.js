// The History view: rows and buttons tell the server what to do; the queue is asked for anew while something is in it.

(function() {
    "use strict";

    const {root, byId, tell, tr} = window.Modelsmith;
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

    const BUTTONS = ".ms-entry button[data-act], .ms-queue button[data-act]";

    // Tables and entries come and go; one listener for all of them answers from the first moment on.
    function answer(event) {
        const target = event.target;
        if (!target || !target.closest) return;
        const button = target.closest(BUTTONS);
        const row = target.closest(".ms-history tr[data-id]");
        if (button && event.type === "click") press(button);
        if (row && (event.type === "click" || event.key === "Enter")) choose(row.dataset.id);
    }

    // The queue may be drawn anew while a button is held down: then the browser makes no click of it.
    let held = null;

    document.addEventListener("pointerdown", event => {
        held = event.target.closest ? event.target.closest(BUTTONS) : null;
    });
    document.addEventListener("pointerup", event => {
        const again = event.target.closest && event.target.closest(BUTTONS);
        const same = held && again && again.dataset.act === held.dataset.act && again.dataset.id === held.dataset.id;
        if (same && !held.isConnected) press(again);
        held = null;
    });
    document.addEventListener("click", answer);
    document.addEventListener("keydown", answer);

    // A queue that looks as it did is not drawn anew, so its markup cannot be what asks the next time.
    setInterval(() => {
        const busy = [...root().querySelectorAll(".ms-queue")].some(queue => Number(queue.dataset.busy) > 0);
        if (busy) byId("modelsmith_history_poll")?.click();
    }, 700);
})();
