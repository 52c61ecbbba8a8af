// The page of a timeline: one step of the training at a time.

import { start } from "./result_page.js";
import { timelineView } from "./timeline_view.js";

start(timelineView);
