package conformance

import (
	"time"
)

// Verdict is what a run found out about a fact.
type Verdict string

// Verdicts; see the package's documentation.
const (
	VerdictHolds      Verdict = "holds"
	VerdictByHeadrace Verdict = "by Headrace"
	VerdictOpen       Verdict = "open"
	VerdictNo         Verdict = "no"
	VerdictUnknown    Verdict = "unknown"
)

// What Result.Declaration says.
const (
	TooBold   = "too bold"
	TooModest = "too modest"
)

// Result is one fact's outcome.
type Result struct {
	Fact    string  `json:"fact"`
	Claim   string  `json:"claim"`
	Verdict Verdict `json:"verdict"`

	// Needs is the capability that promises it; "" when every broker must.
	Needs string `json:"needs,omitempty"`
	// Declared: the broker promises it.
	Declared bool `json:"declared"`
	// Declaration is "too bold" when what is declared (or known to be broken) was
	// seen otherwise to the worse, "too modest" when to the better.
	Declaration string `json:"declaration,omitempty"`

	// Failed: the run must not pass.
	Failed bool `json:"failed"`
	// Note is what was seen, or why it isn't known.
	Note string `json:"note,omitempty"`
	// Known is why the broker is known to break it.
	Known string `json:"known,omitempty"`

	// History is what happened to the messages of the keys concerned, when the
	// fact did not hold.
	History []string `json:"history,omitempty"`
	// State is what the broker itself says, then.
	State string `json:"state,omitempty"`
	// Topic is the one on which it was tried, then.
	Topic string `json:"topic,omitempty"`

	Took time.Duration `json:"took_ns"`

	held bool // though it isn't declared
}

// modest marks capabilities that aren't declared and of which all facts held. One
// fact alone says little: several keys at once, say, are only part of Lanes.
func modest(results []Result) {
	left := map[string]int{} // facts of a capability that lack, or weren't chosen
	shy := map[string]bool{}
	for _, f := range Facts() {
		left[f.Needs.Name]++
		shy[f.Name] = f.Shy
	}
	for _, r := range results {
		if r.held || r.Verdict == VerdictUnknown {
			left[r.Needs]--
		}
	}
	// A total order can't be declared where keys have none.
	keyOrder := left[needsKeyOrder.Name] == 0
	for _, r := range results {
		keyOrder = keyOrder || r.Needs == needsKeyOrder.Name && r.Declared
	}
	for i, r := range results {
		if r.held && !shy[r.Fact] && left[r.Needs] == 0 && (r.Needs != needsTotalOrder.Name || keyOrder) {
			results[i].Declaration = TooModest
		}
	}
}

// result turns an outcome into a verdict.
func (r *runner) result(f Fact, o outcome, took time.Duration) Result {
	known, isKnown := r.harness.Known[f.Name]
	res := Result{
		Fact: f.Name, Claim: f.Claim, Needs: f.Needs.Name, Took: took, Known: known,
		Declared: f.declared(r.harness),
		Note:     o.Note, History: o.history, State: o.state, Topic: o.topic,
	}
	sometimes, isSometimes := r.harness.Sometimes[f.Name]
	switch {
	case o.unknown != "":
		res.Verdict, res.Note, res.Failed = VerdictUnknown, o.unknown, o.broken
	case isSometimes:
		res.Verdict, res.Known = VerdictNo, sometimes
	case res.Declared && o.Holds:
		res.Verdict = VerdictHolds
		if isKnown {
			res.Declaration = TooModest
		}
	case res.Declared && isKnown:
		res.Verdict = VerdictNo
	case res.Declared:
		res.Verdict, res.Failed, res.Declaration = VerdictNo, true, TooBold
	case f.Optional && o.Holds:
		res.Verdict = VerdictHolds
	case f.Optional && o.fallback == nil:
		res.Verdict = VerdictNo
	default:
		r.undeclared(&res, f, o)
	}
	if o.left != "" {
		res.Note = joinNotes(res.Note, o.left)
	}

	return res
}

// undeclared judges a fact that the broker doesn't promise.
func (r *runner) undeclared(res *Result, f Fact, o outcome) {
	switch {
	case o.fallback != nil && o.fallback.unknown != "":
		res.Verdict, res.Failed = VerdictUnknown, o.fallback.broken
		res.Note = joinNotes(res.Note, "with Headrace: "+o.fallback.unknown)
		res.History = o.fallback.history
	case o.fallback != nil && o.fallback.Holds:
		res.Verdict = VerdictByHeadrace
		res.Note = joinNotes(res.Note, o.fallback.Note)
	case o.fallback != nil:
		res.Verdict, res.Failed = VerdictNo, res.Known == ""
		res.Note = joinNotes(res.Note, "with Headrace: "+o.fallback.Note)
		res.History = o.fallback.history
	case f.Issue != "" && !r.harness.Bare:
		res.Verdict = VerdictOpen
	default:
		res.Verdict = VerdictNo
	}
	res.held = o.Holds
}

func joinNotes(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}

	return a + "; " + b
}
