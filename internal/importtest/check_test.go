package importtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const module = "github.com/headrace-go/headrace"

// graph is which package's code imports which, by full path, tests aside.
type graph map[string][]string

// violations says where the product's packages break the rules.
func violations(g graph, table []rule) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(g)) {
		pkg, ours := within(path, module)
		if !ours {
			continue
		}
		r, ok := ruleOf(pkg, table)
		if !ok {
			found = append(found, fmt.Sprintf("%s has no rule: add one to rules_test.go", path))
			continue
		}
		for _, imported := range g[path] {
			if !r.allows(imported) {
				found = append(found, fmt.Sprintf("%s may not import %s", path, imported))
			}
		}
	}
	return found
}

func (r rule) allows(imported string) bool {
	if standard(imported) {
		return true
	}
	if pkg, ours := within(imported, module); ours {
		return matches(pkg, r.product) || !r.bare && matches(pkg, leaves)
	}
	for _, allowed := range slices.Concat(r.modules, light) {
		if _, ok := within(imported, allowed); ok && (!r.bare || slices.Contains(r.modules, allowed)) {
			return true
		}
	}
	return false
}

// ruleOf finds a package's own rule, or that of the closest folder above it.
func ruleOf(pkg string, table []rule) (best rule, found bool) {
	for _, r := range table {
		if r.pkg == pkg {
			return r, true
		}
		if matches(pkg, []string{r.pkg}) && len(r.pkg) > len(best.pkg) {
			best, found = r, true
		}
	}
	return best, found
}

func matches(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		folder, wild := strings.CutSuffix(pattern, "...")
		return pattern == pkg || wild && (strings.HasPrefix(pkg, folder) || pkg == strings.TrimSuffix(folder, "/"))
	})
}

// within returns a path relative to a folder or module that contains it.
func within(path, folder string) (string, bool) {
	if path == folder {
		return "", true
	}
	return strings.CutPrefix(path, folder+"/")
}

// standard: only paths outside of the standard library have a dot in their first
// element.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// reach returns the shortest way by which a package comes to import one of the
// given modules, or nil.
func reach(g graph, from string, modules []string) []string {
	previous := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if slices.ContainsFunc(modules, func(m string) bool { _, ok := within(at, m); return ok }) {
			var way []string
			for ; at != ""; at = previous[at] {
				way = append([]string{at}, way...)
			}
			return way
		}
		for _, next := range g[at] {
			if _, seen := previous[next]; !seen {
				previous[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// foreign says how core packages come to import what is foreign to them.
func foreign(g graph) []string {
	var found []string
	for _, pkg := range core {
		for _, kind := range slices.Sorted(maps.Keys(foreignToCore)) {
			if way := reach(g, strings.TrimSuffix(module+"/"+pkg, "/"), foreignToCore[kind]); way != nil {
				found = append(found, fmt.Sprintf("the core pulls in %s: %s", kind, strings.Join(way, " → ")))
			}
		}
	}
	return found
}

// suitesReached says how packages that services may link come to import one of
// the suites, or what only those need.
func suitesReached(g graph) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(g)) {
		pkg, ours := within(path, module)
		if !ours || matches(pkg, notLinked) {
			continue
		}
		if way := reach(g, path, suites); way != nil {
			found = append(found, "services would link a suite: "+strings.Join(way, " → "))
		}
	}
	return found
}

// circle returns a circle in what the table allows among packages with a rule
// of their own, or nil. The compiler refuses circles of imports; this refuses
// rules that leave the direction open.
func circle(table []rule) []string {
	const unseen, open, done = 0, 1, 2
	state := map[string]int{}
	var visit func(pkg string, way []string) []string
	visit = func(pkg string, way []string) []string {
		way = append(way, pkg)
		state[pkg] = open
		r, _ := ruleOf(pkg, table)
		for _, other := range table {
			next := other.pkg
			if next == pkg || strings.HasSuffix(next, "...") || !matches(next, r.product) {
				continue
			}
			if state[next] == open {
				return append(way, next)
			}
			if state[next] == unseen {
				if found := visit(next, way); found != nil {
					return found
				}
			}
		}
		state[pkg] = done
		return nil
	}
	for _, r := range table {
		if state[r.pkg] == unseen && !strings.HasSuffix(r.pkg, "...") {
			if found := visit(r.pkg, nil); found != nil {
				return found
			}
		}
	}
	return nil
}
