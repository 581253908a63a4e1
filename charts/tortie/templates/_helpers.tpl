{{- define "tortie.selectorLabels" -}}
app.kubernetes.io/name: tortie
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "tortie.labels" -}}
{{ include "tortie.selectorLabels" . }}
{{ include "tortie.releaseLabels" . }}
{{- end }}

{{- define "tortie.releaseLabels" -}}
app.kubernetes.io/part-of: tortie
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tortie.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* Names of the CustomResourceDefinitions in the cluster that belong to this release: none where it is not to upgrade them. */ -}}
{{- define "tortie.ownedKinds" -}}
{{- $owned := list }}
{{- if .Values.crds.upgrade }}
{{- range (lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "").items }}
{{- $of := .metadata.annotations | default dict }}
{{- if and (eq .spec.group "tortie.dev") (eq (get $of "meta.helm.sh/release-name") $.Release.Name) (eq (get $of "meta.helm.sh/release-namespace") $.Release.Namespace) }}
{{- $owned = append $owned .metadata.name }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $owned }}
{{- end }}

{{- define "tortie.probe" -}}
port: metrics
{{- if not .Values.metrics.enabled }}
host: 127.0.0.1
{{- end }}
{{- end }}

{{- define "tortie.mounts" -}}
- {name: run, mountPath: /run/tortie}
- {name: sysctls, mountPath: /host/proc/sys/net}
{{- if .Values.cni.enabled }}
# under the node's own paths, which the CNI configuration names
- {name: cni-conf, mountPath: {{ .Values.cni.confDir | quote }}}
- {name: cni-state, mountPath: {{ .Values.cni.stateDir | quote }}}
{{- end }}
{{- end }}
