// Package worker runs pulls in a child process, so that neither their CPU time
// nor their memory burdens the kubelet.
//
// The Client starts the program that its config names when a pull is asked
// for, keeps it for all pulls that follow, and lets it go when none has been
// asked for a while. The program's main calls Main, which serves the pulls
// with one pull.Engine, so that they share layers. If the program dies, the
// pulls under way fail and the next one starts it anew.
//
// # Protocol
//
// One JSON object after the other, both ways, over a socket that the child has
// as file descriptor 3. Secrets go only this way: never on a command line, in
// the environment or into a log.
//
//	parent > child  {"hello":{"version":1,"store":{...},"pull":{...}}}   first, once
//	child  > parent {"hello":{"version":1}}                            the store is open
//	parent > child  {"id":7,"pull":{"image":"...","auth":{...}},"progress":true}
//	parent > child  {"id":8,"import":{"source":"oci:/x","names":["..."]}}
//	parent > child  {"id":7,"cancel":true}
//	child  > parent {"id":7,"event":{...}}                             if progress was wanted
//	child  > parent {"id":7,"result":{...}}                            or, as the last word on 7,
//	child  > parent {"id":7,"error":{"text":"...","class":"..."}}
//
// Id 0 in an error is about the child itself. The parent ends the child by
// closing the socket; the kernel does so if the parent dies, and then kills
// the child too.
package worker
